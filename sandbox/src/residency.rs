//! Which models are in memory, who uses them, and when they leave.
//!
//! As in Ollama: a model stays for its `keep_alive` after its last request; another `num_ctx` means loading it again; a
//! full house sends an idle model away, and waits if none is idle; a request that waits for room makes those behind it
//! wait too, except for those who want what is there. Each model has its own slots, handed out in the order of asking. Unlike Ollama, which sends away the one
//! of the shortest `keep_alive`, this takes the one that has been idle longest.
//!
//! Nothing runs in the background: who looks, first drops what has expired.
//!
//! Invariant: a model with a tenant never leaves memory, at most `capacity` models are in it and at most
//! `memory_bytes` of them (one that is larger on its own is alone), and at most `slots` tenants of one model have a
//! slot. Dropping a [`Tenancy`] or [`Slot`] at any point gives back exactly what it took.

use std::cmp::Reverse;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use wire::ollama::KeepAlive;

/// How many models, how many requests at once to each, for how long.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Models in memory.
    pub(crate) capacity: usize,
    /// Bytes that they take together. A larger model is alone, and partly elsewhere.
    pub(crate) memory_bytes: u64,
    /// Requests that one model answers at a time.
    pub(crate) slots: usize,
    /// Requests that wait for room; those for a model in memory do not.
    pub(crate) queue: usize,
    /// For a model that nobody said otherwise of.
    pub(crate) keep_alive: KeepAlive,
}

/// A model that a request wants in memory.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    /// Who it is: the model's short name.
    pub(crate) model: String,
    /// In memory.
    pub(crate) size_bytes: u64,
    /// Tokens per slot.
    pub(crate) context_length: u32,
    /// How long it takes to come.
    pub(crate) load: Duration,
    /// How long it stays when idle; `None` leaves that as it is.
    pub(crate) keep_alive: Option<KeepAlive>,
}

/// The models in memory.
pub(crate) struct Residency {
    limits: Limits,
    residents: Mutex<Vec<Resident>>,
    /// Rung whenever a tenant leaves.
    left: Notify,
    /// Held by the request whose turn it is to find room; tokio's mutex is fair.
    turn: tokio::sync::Mutex<()>,
    /// Requests that wait for room.
    waiting: AtomicUsize,
}

/// The queue is full.
#[derive(Debug)]
pub(crate) struct Full;

struct Resident {
    model: String,
    size_bytes: u64,
    /// What each slot has read and said last, the latest at the end: what the next prompt shares with it is cached.
    read: Vec<String>,
    context_length: u32,
    ready_at: Instant,
    keep_alive: KeepAlive,
    tenants: usize,
    /// Last came or went a tenant.
    used_at: Instant,
    slots: Arc<Semaphore>,
}

/// A model in memory, seen from outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) model: String,
    pub(crate) context_length: u32,
    /// Until it leaves.
    pub(crate) stays: KeepAlive,
}

/// Keeps a model in memory for one request.
pub(crate) struct Tenancy {
    house: Arc<Residency>,
    model: String,
    entered: Instant,
    ready_at: Instant,
    slots: Arc<Semaphore>,
}

/// A tenancy that may compute.
pub(crate) struct Slot {
    // Before the tenancy: fields drop in this order, and the permit goes back before the model may leave.
    _permit: OwnedSemaphorePermit,
    tenancy: Tenancy,
    /// When the slot was had.
    pub(crate) began: Instant,
    /// When the model is in memory: past, unless this request or one just before it made it load.
    pub(crate) ready_at: Instant,
}

impl Residency {
    pub(crate) fn new(limits: Limits) -> Arc<Self> {
        Arc::new(Self {
            limits,
            residents: Mutex::new(Vec::new()),
            left: Notify::new(),
            turn: tokio::sync::Mutex::new(()),
            waiting: AtomicUsize::new(0),
        })
    }

    /// Waits for room, then brings the model in or joins those who use it already.
    pub(crate) async fn enter(self: &Arc<Self>, wanted: Wanted) -> Result<Tenancy, Full> {
        if let Some(tenancy) = self.try_join(&wanted) {
            return Ok(tenancy);
        }
        // One request is looked at, and is in the queue no more.
        let _waiting = Waiting::new(&self.waiting, self.limits.queue.saturating_add(1)).ok_or(Full)?;
        let _turn = self.turn.lock().await;
        loop {
            // Registered before looking: a tenant who leaves in between is not missed.
            let left = self.left.notified();
            if let Some(tenancy) = self.try_enter(&wanted) {
                return Ok(tenancy);
            }
            left.await;
        }
    }

    /// A tenancy of a model that is there as it is wanted.
    fn try_join(self: &Arc<Self>, wanted: &Wanted) -> Option<Tenancy> {
        let now = Instant::now();
        let mut residents = self.current(now);
        let is_it = |resident: &&mut Resident| {
            resident.model == wanted.model && resident.context_length == wanted.context_length
        };
        let resident = residents.iter_mut().find(is_it)?;
        Some(self.join(resident, wanted, now))
    }

    fn join(self: &Arc<Self>, resident: &mut Resident, wanted: &Wanted, now: Instant) -> Tenancy {
        resident.keep_alive = wanted.keep_alive.unwrap_or(resident.keep_alive);
        resident.tenants += 1;
        resident.used_at = now;
        Tenancy {
            house: Arc::clone(self),
            model: resident.model.clone(),
            entered: now,
            ready_at: resident.ready_at,
            slots: Arc::clone(&resident.slots),
        }
    }

    fn try_enter(self: &Arc<Self>, wanted: &Wanted) -> Option<Tenancy> {
        let now = Instant::now();
        let mut residents = self.current(now);
        let mut held = residents.iter().position(|resident| resident.model == wanted.model);
        if let Some(index) = held.filter(|index| residents[*index].context_length != wanted.context_length) {
            evict(&mut residents, index)?;
            held = None;
        }
        while held.is_none() && !self.has_room(&residents, wanted.size_bytes) {
            let idle = residents.iter().enumerate().filter(|(_, resident)| resident.tenants == 0);
            let (oldest, _) = idle.min_by_key(|(_, resident)| resident.used_at)?;
            evict(&mut residents, oldest)?;
        }
        let index = held.unwrap_or_else(|| {
            log::info!("loading {} with a context of {}", wanted.model, wanted.context_length);
            residents.push(Resident {
                model: wanted.model.clone(),
                size_bytes: wanted.size_bytes,
                read: Vec::new(),
                context_length: wanted.context_length,
                ready_at: now + wanted.load,
                keep_alive: self.limits.keep_alive,
                tenants: 0,
                used_at: now,
                slots: Arc::new(Semaphore::new(self.limits.slots)),
            });
            residents.len() - 1
        });
        Some(self.join(&mut residents[index], wanted, now))
    }

    fn has_room(&self, residents: &[Resident], size_bytes: u64) -> bool {
        let taken: u64 = residents.iter().map(|resident| resident.size_bytes).sum();
        let fits =
            residents.len() < self.limits.capacity && taken.saturating_add(size_bytes) <= self.limits.memory_bytes;
        residents.is_empty() || fits
    }

    /// Bytes of a model of `size_bytes` that the memory can hold.
    pub(crate) fn held_bytes(&self, size_bytes: u64) -> u64 {
        size_bytes.min(self.limits.memory_bytes)
    }

    /// Sends a model away: now if it is idle, else with its last tenant.
    pub(crate) fn unload(&self, model: &str) {
        let mut residents = self.current(Instant::now());
        for resident in residents.iter_mut().filter(|resident| resident.model == model) {
            resident.keep_alive = KeepAlive::For(Duration::ZERO);
        }
        sweep(&mut residents, Instant::now());
    }

    /// The models in memory, the one that stays longest first.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        let now = Instant::now();
        let mut seen: Vec<Seen> = self.current(now).iter().map(|resident| resident.seen(now)).collect();
        seen.sort_by_key(|seen| match seen.stays {
            KeepAlive::Forever => Reverse(Duration::MAX),
            KeepAlive::For(stays) => Reverse(stays),
        });
        seen
    }

    /// The residents, without those whose time is up.
    fn current(&self, now: Instant) -> MutexGuard<'_, Vec<Resident>> {
        let mut residents = self.residents.lock().unwrap_or_else(PoisonError::into_inner);
        sweep(&mut residents, now);
        residents
    }
}

/// Sends away those whose time is up.
fn sweep(residents: &mut Vec<Resident>, now: Instant) {
    residents.retain(|resident| {
        let is_expired = resident.tenants == 0 && resident.seen(now).stays == KeepAlive::For(Duration::ZERO);
        if is_expired {
            log::info!("unloading {}: its keep_alive is over", resident.model);
        }
        !is_expired
    });
}

impl Resident {
    fn seen(&self, now: Instant) -> Seen {
        let idle = now.saturating_duration_since(self.used_at);
        let stays = match self.keep_alive {
            KeepAlive::For(keep_alive) if self.tenants == 0 => KeepAlive::For(keep_alive.saturating_sub(idle)),
            keep_alive => keep_alive,
        };
        Seen { model: self.model.clone(), context_length: self.context_length, stays }
    }
}

/// Takes an idle resident out; `None`, and nothing done, if it has tenants.
fn evict(residents: &mut Vec<Resident>, index: usize) -> Option<()> {
    if residents[index].tenants > 0 {
        return None;
    }
    let resident = residents.swap_remove(index);
    log::info!("unloading {} to make room", resident.model);
    Some(())
}

impl Tenancy {
    /// Waits for a free slot.
    pub(crate) async fn slot(self) -> Slot {
        let slots = Arc::clone(&self.slots);
        // Who need not wait begins when it entered, to the nanosecond: so a load's duration is the declared one.
        let (permit, began) = match Arc::clone(&slots).try_acquire_owned() {
            Ok(permit) => (permit, self.entered),
            Err(_) => match slots.acquire_owned().await {
                Ok(permit) => (permit, Instant::now()),
                Err(_) => unreachable!("nobody closes the semaphore"),
            },
        };
        Slot { _permit: permit, began, ready_at: self.ready_at, tenancy: self }
    }

    /// Waits until the model is in memory.
    pub(crate) async fn ready(&self) {
        tokio::time::sleep_until(self.ready_at).await;
    }
}

impl Slot {
    /// How many bytes at the start of `prompt` this model has read before, in a slot that is remembered. From now on
    /// it has read all of it, and `reply`.
    pub(crate) fn recall(&self, prompt: &str, reply: &str) -> usize {
        let house = &self.tenancy.house;
        let mut residents = house.residents.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(resident) = residents.iter_mut().find(|resident| resident.model == self.tenancy.model) else {
            return 0;
        };
        let shared = |read: &String| read.bytes().zip(prompt.bytes()).take_while(|(a, b)| a == b).count();
        let best = resident.read.iter().enumerate().map(|(index, read)| (shared(read), index)).max();
        // As llama.cpp does it: the slot that shares most is written over, an empty one before that.
        if let Some((_, index)) = best.filter(|(shared, _)| *shared > 0 || resident.read.len() >= house.limits.slots) {
            resident.read.remove(index);
        }
        resident.read.push(format!("{prompt}{reply}"));
        best.map_or(0, |(shared, _)| shared)
    }
}

/// A place in the queue.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    /// `None` if `most` wait already.
    fn new(waiting: &'a AtomicUsize, most: usize) -> Option<Self> {
        let one_more = |count: usize| (count < most).then(|| count + 1);
        waiting.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).ok()?;
        Some(Self(waiting))
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for Tenancy {
    fn drop(&mut self) {
        let mut residents = self.house.residents.lock().unwrap_or_else(PoisonError::into_inner);
        // A model with tenants is never taken out, so this is the resident that was entered.
        if let Some(resident) = residents.iter_mut().find(|resident| resident.model == self.model) {
            resident.tenants -= 1;
            resident.used_at = Instant::now();
        }
        drop(residents);
        self.house.left.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{advance, sleep, timeout};

    use super::*;

    const LOAD: Duration = Duration::from_secs(1);
    const MINUTE: Duration = Duration::from_secs(60);

    fn house() -> Arc<Residency> {
        Residency::new(Limits {
            capacity: 2,
            memory_bytes: 100,
            slots: 1,
            queue: 1,
            keep_alive: KeepAlive::For(MINUTE),
        })
    }

    fn wanted(model: &str) -> Wanted {
        Wanted { model: model.to_owned(), size_bytes: 10, context_length: 4096, load: LOAD, keep_alive: None }
    }

    fn names(house: &Residency) -> Vec<String> {
        let mut names: Vec<String> = house.seen().into_iter().map(|seen| seen.model).collect();
        names.sort();
        names
    }

    #[tokio::test(start_paused = true)]
    async fn a_model_leaves_when_idle_for_its_keep_alive_and_not_before() {
        let house = house();
        let tenancy = house.enter(wanted("a")).await.unwrap();
        advance(10 * MINUTE).await;
        assert_eq!(names(&house), ["a"], "in use");
        drop(tenancy);
        advance(MINUTE - Duration::from_nanos(1)).await;
        assert_eq!(names(&house), ["a"]);
        advance(Duration::from_nanos(1)).await;
        assert!(names(&house).is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn forever_is_forever_until_unloaded() {
        let house = house();
        drop(house.enter(Wanted { keep_alive: Some(KeepAlive::Forever), ..wanted("a") }).await.unwrap());
        advance(100_000 * MINUTE).await;
        drop(house.enter(wanted("a")).await.unwrap());
        assert_eq!(house.seen()[0].stays, KeepAlive::Forever, "a request that does not say leaves it so");
        house.unload("a");
        assert!(names(&house).is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn unloading_a_busy_model_waits_for_its_tenant() {
        let house = house();
        let tenancy = house.enter(wanted("a")).await.unwrap();
        house.unload("a");
        assert_eq!(names(&house), ["a"]);
        drop(tenancy);
        assert!(names(&house).is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_house_sends_away_the_longest_idle() {
        let house = house();
        for model in ["a", "b", "a"] {
            drop(house.enter(wanted(model)).await.unwrap());
            advance(Duration::from_secs(1)).await;
        }
        drop(house.enter(wanted("c")).await.unwrap());
        assert_eq!(names(&house), ["a", "c"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_house_full_of_busy_models_makes_the_next_wait() {
        let house = house();
        let (_a, b) = (house.enter(wanted("a")).await.unwrap(), house.enter(wanted("b")).await);
        assert!(timeout(MINUTE, house.enter(wanted("c"))).await.is_err());
        tokio::spawn(async move {
            sleep(MINUTE).await;
            drop(b);
        });
        let _c = timeout(2 * MINUTE, house.enter(wanted("c"))).await.unwrap().unwrap();
        assert_eq!(names(&house), ["a", "c"]);
    }

    #[tokio::test(start_paused = true)]
    async fn another_context_loads_the_model_again() {
        let house = house();
        drop(house.enter(wanted("a")).await.unwrap());
        advance(LOAD).await;
        let same = house.enter(wanted("a")).await.unwrap().slot().await;
        assert!(same.ready_at <= same.began);
        drop(same);
        let other = house.enter(Wanted { context_length: 8192, ..wanted("a") }).await.unwrap().slot().await;
        assert_eq!(other.ready_at - other.began, LOAD);
        assert_eq!(house.seen().len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_slot_is_had_by_one_and_given_back_by_dropping() {
        let house = house();
        let first = house.enter(wanted("a")).await.unwrap().slot().await;
        let second = house.enter(wanted("a")).await.unwrap();
        assert!(timeout(MINUTE, second.slot()).await.is_err(), "and who gives up leaves nothing behind");
        drop(first);
        let third = house.enter(wanted("a")).await.unwrap();
        assert!(timeout(MINUTE, third.slot()).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn makes_room_by_size_and_leaves_a_large_one_alone() {
        let house = house();
        let sized = |model: &str, size_bytes| Wanted { size_bytes, ..wanted(model) };
        drop(house.enter(sized("a", 60)).await.unwrap());
        drop(house.enter(sized("b", 40)).await.unwrap());
        assert_eq!(names(&house), ["a", "b"]);
        drop(house.enter(sized("c", 61)).await.unwrap());
        assert_eq!(names(&house), ["c"], "both had to go");
        drop(house.enter(sized("d", 1000)).await.unwrap());
        assert_eq!(names(&house), ["d"]);
        assert_eq!(house.held_bytes(1000), 100);
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_queue_refuses_and_who_wants_what_is_there_does_not_queue() {
        let house = house();
        let (a, _b) = (house.enter(wanted("a")).await.unwrap(), house.enter(wanted("b")).await.unwrap());
        let waiting: Vec<_> = ["c", "d"]
            .map(|model| {
                let house = Arc::clone(&house);
                tokio::spawn(async move { house.enter(wanted(model)).await.map(drop) })
            })
            .into();
        sleep(MINUTE).await;
        assert!(house.enter(wanted("e")).await.is_err());
        assert!(house.enter(wanted("a")).await.is_ok());
        drop(a);
        for waiting in waiting {
            timeout(MINUTE, waiting).await.unwrap().unwrap().unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn recalls_what_a_slot_read_and_said() {
        let house = house();
        let slot = house.enter(wanted("a")).await.unwrap().slot().await;
        assert_eq!(slot.recall("one two", " three"), 0);
        assert_eq!(slot.recall("one two three four", ""), "one two three".len());
        assert_eq!(slot.recall("another", ""), 0);
        assert_eq!(slot.recall("one two", ""), 0, "one slot remembers one prompt");
    }
}
