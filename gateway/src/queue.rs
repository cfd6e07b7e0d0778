//! Who is next: a turn a client, round robin, before the engine's slots for a model.
//!
//! Ollama serves first come, first served. A script that asks a hundred questions at once then makes everyone else
//! wait for all of them. Here each client (a key, or an address) has a line of its own, and lines take turns: a turn's
//! tag is one more than the client's last one, but never less than that of the turn under way, and the lowest tag goes
//! first. So a newcomer goes before whoever was just served, and staying away earns nothing.
//!
//! Invariant: no client waits for more than one turn of each other client, and one still running; nobody is turned
//! away while there is room; a turn ends when its [`Turn`] is dropped, a place when whoever waits leaves.

use std::{
    collections::{HashMap, VecDeque},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

use crate::model::Model;

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Client {
    /// Whoever holds the key of this name.
    Key(Arc<str>),
    /// Whoever asks from there.
    Address(IpAddr),
}

/// Turned away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NoRoom {
    /// One client's line is full, not the whole queue.
    pub(crate) own_line: bool,
    /// How many turns would come first.
    pub(crate) ahead: usize,
    /// When it is worth trying again, as far as one can tell.
    pub(crate) retry_after: Duration,
}

/// A waiting room for each model: those that are in memory answer side by side, and each so many at a time.
pub(crate) struct Queues {
    slots: usize,
    places: usize,
    by_model: Mutex<HashMap<Model, Arc<Queue>>>,
}

impl Queues {
    /// As many turns at a time for a model as `slots`, and as many who wait as `places`.
    pub(crate) fn new(slots: usize, places: usize) -> Self {
        Queues { slots, places, by_model: Mutex::default() }
    }

    /// Where one waits for `model`. As many as there are labels.
    pub(crate) fn of(&self, model: Model) -> Arc<Queue> {
        Arc::clone(self.by_model().entry(model).or_insert_with(|| Queue::new(self.slots, self.places)))
    }

    /// How many wait.
    pub(crate) fn waiting(&self) -> usize {
        self.by_model().values().map(|queue| queue.waiting()).sum()
    }

    fn by_model(&self) -> MutexGuard<'_, HashMap<Model, Arc<Queue>>> {
        self.by_model.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The waiting room.
pub(crate) struct Queue {
    slots: usize,
    places: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Turns under way.
    running: usize,
    waiting: usize,
    /// How many ever waited: who came first goes first where tags are equal.
    arrivals: u64,
    /// The tag of the turn that began last.
    now: u64,
    lines: HashMap<Client, Line>,
    /// How long a turn takes, on average, weighted towards the last ones.
    turn_s: f64,
}

#[derive(Default)]
struct Line {
    /// The tag of its next turn.
    tag: u64,
    waiting: VecDeque<(u64, oneshot::Sender<Turn>)>,
}

/// A turn under way; it ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Turn {
    /// None in one that never began.
    queue: Option<Arc<Queue>>,
    began: Instant,
}

/// A place in a line; it is given up when this is dropped.
struct Place<'a> {
    queue: &'a Queue,
    client: &'a Client,
    turn: oneshot::Receiver<Turn>,
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Queue").field("slots", &self.slots).field("places", &self.places).finish_non_exhaustive()
    }
}

impl Queue {
    /// As many turns at a time as `slots`, and as many who wait as `places`, of which one client has at most half.
    pub(crate) fn new(slots: usize, places: usize) -> Arc<Self> {
        Arc::new(Queue { slots, places, state: Mutex::default() })
    }

    /// How many wait.
    pub(crate) fn waiting(&self) -> usize {
        self.state().waiting
    }

    /// Waits for a turn. Dropping the future gives up the place.
    pub(crate) async fn enter(self: &Arc<Self>, client: &Client) -> Result<Turn, NoRoom> {
        let mut place = {
            let mut state = self.state();
            let tag = state.tag(client);
            if state.running < self.slots && state.waiting == 0 {
                state.begin(client.clone(), tag);
                return Ok(self.turn());
            }
            self.refuse(&state, client)?;
            let (sender, turn) = oneshot::channel();
            state.waiting += 1;
            state.arrivals += 1;
            let arrival = state.arrivals;
            let line = state.lines.entry(client.clone()).or_default();
            line.tag = tag;
            line.waiting.push_back((arrival, sender));
            Place { queue: self, client, turn }
        };
        // The sender is in the state, which lives as long as `self`, and goes only by sending.
        Ok((&mut place.turn).await.unwrap_or_else(|_| self.turn()))
    }

    fn refuse(&self, state: &State, client: &Client) -> Result<(), NoRoom> {
        let own = state.lines.get(client).map_or(0, |line| line.waiting.len());
        let own_line = own >= self.places.div_ceil(2);
        if !own_line && state.waiting < self.places {
            return Ok(());
        }
        let ahead = if own_line { own } else { state.waiting };
        let seconds = (state.turn_s * ahead as f64 / self.slots as f64).clamp(1.0, 300.0);
        Err(NoRoom { own_line, ahead, retry_after: Duration::from_secs_f64(seconds.ceil()) })
    }

    fn turn(self: &Arc<Self>) -> Turn {
        Turn { queue: Some(Arc::clone(self)), began: Instant::now() }
    }

    /// A slot is free: whoever is next gets it.
    fn pass_on(self: &Arc<Self>, turn_s: f64) {
        let mut state = self.state();
        state.turn_s = if state.turn_s == 0.0 { turn_s } else { state.turn_s * 0.9 + turn_s * 0.1 };
        state.running -= 1;
        while state.running < self.slots {
            let Some((client, tag, next)) = state.next() else { break };
            state.begin(client, tag);
            state.waiting -= 1;
            if let Err(mut unwanted) = next.send(self.turn()) {
                // Whoever waited leaves at this very moment: the turn never began, and its end must not come back here.
                state.running -= 1;
                unwanted.queue = None;
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The tag of the next turn of `client`.
    fn tag(&self, client: &Client) -> u64 {
        self.lines.get(client).map_or(0, |line| line.tag).max(self.now)
    }

    /// The first of the line whose turn it is.
    fn next(&mut self) -> Option<(Client, u64, oneshot::Sender<Turn>)> {
        let lines = self.lines.iter_mut().filter(|(_, line)| !line.waiting.is_empty());
        let (client, line) =
            lines.min_by_key(|(_, line)| (line.tag, line.waiting.front().map(|(arrival, _)| *arrival)))?;
        let (_, sender) = line.waiting.pop_front()?;
        Some((client.clone(), line.tag, sender))
    }

    fn begin(&mut self, client: Client, tag: u64) {
        self.running += 1;
        self.now = self.now.max(tag);
        let now = self.now;
        self.lines.entry(client).or_default().tag = now + 1;
        // Who is not ahead of the others needs no memory.
        self.lines.retain(|_, line| !line.waiting.is_empty() || line.tag > now);
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let Some(queue) = self.queue.take() else { return };
        queue.pass_on(self.began.elapsed().as_secs_f64());
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.turn.close();
        let mut state = self.queue.state();
        let Some(line) = state.lines.get_mut(self.client) else { return };
        let before = line.waiting.len();
        line.waiting.retain(|(_, sender)| !sender.is_closed());
        let left = before - line.waiting.len();
        state.waiting -= left;
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Poll, Waker};

    use super::*;

    fn client(name: &str) -> Client {
        Client::Key(name.into())
    }

    type Entering<'a> = std::pin::Pin<Box<dyn Future<Output = Result<Turn, NoRoom>> + 'a>>;

    fn look<'a>(entering: &mut Entering<'a>) -> Option<Result<Turn, NoRoom>> {
        match entering.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(entered) => Some(entered),
            Poll::Pending => None,
        }
    }

    fn enter<'a>(queue: &'a Arc<Queue>, client: &'a Client) -> Result<Turn, NoRoom> {
        look(&mut (Box::pin(queue.enter(client)) as Entering<'a>)).expect("need not wait")
    }

    /// In which order those who wait get their turns, each ending at once.
    fn order(mut running: Vec<Turn>, mut waiting: Vec<(&'static str, Entering<'_>)>) -> String {
        let mut order = String::new();
        while let Some(turn) = running.pop() {
            drop(turn);
            waiting.retain_mut(|(name, entering)| match look(entering) {
                Some(turn) => {
                    order += name;
                    running.push(turn.unwrap());
                    false
                }
                None => true,
            });
        }
        assert!(waiting.is_empty());
        order
    }

    fn wait<'a>(queue: &'a Arc<Queue>, client: &'a Client, name: &'static str) -> (&'static str, Entering<'a>) {
        let mut entering: Entering<'a> = Box::pin(queue.enter(client));
        assert!(look(&mut entering).is_none());
        (name, entering)
    }

    #[test]
    fn lines_take_turns_and_a_newcomer_goes_before_who_was_just_served() {
        let queue = Queue::new(1, 100);
        let (greedy, polite, third) = (client("g"), client("p"), client("t"));
        let first = enter(&queue, &greedy).unwrap();
        let mut waiting: Vec<_> = (0..5).map(|_| wait(&queue, &greedy, "g")).collect();
        waiting.push(wait(&queue, &polite, "p"));
        waiting.push(wait(&queue, &third, "t"));
        waiting.push(wait(&queue, &polite, "p"));
        assert_eq!(order(vec![first], waiting), "ptgpgggg");
        assert_eq!(queue.waiting(), 0);
    }

    #[test]
    fn asking_one_after_the_other_earns_no_more_than_a_share() {
        let queue = Queue::new(1, 100);
        let (greedy, serial) = (client("g"), client("s"));
        let mut running = enter(&queue, &greedy).unwrap();
        let mut greedies: VecDeque<_> = (0..6).map(|_| wait(&queue, &greedy, "g").1).collect();
        let mut next = wait(&queue, &serial, "s").1;
        let mut served = String::new();
        for _ in 0..6 {
            drop(running);
            running = if let Some(turn) = look(&mut next) {
                served += "s";
                // Asks again as soon as it was served.
                next = wait(&queue, &serial, "s").1;
                turn.unwrap()
            } else {
                served += "g";
                look(&mut greedies.pop_front().unwrap()).unwrap().unwrap()
            };
        }
        assert_eq!(served, "sgsgsg");
    }

    #[test]
    fn one_line_may_fill_half_of_the_room_and_the_room_is_bounded() {
        let queue = Queue::new(1, 4);
        let clients = ["a", "b", "c"].map(client);
        let _running = enter(&queue, &clients[0]).unwrap();
        let _a = [wait(&queue, &clients[0], "a"), wait(&queue, &clients[0], "a")];
        let refused = enter(&queue, &clients[0]).unwrap_err();
        assert!(refused.own_line && refused.ahead == 2, "{refused:?}");
        let _b = [wait(&queue, &clients[1], "b"), wait(&queue, &clients[1], "b")];
        let refused = enter(&queue, &clients[2]).unwrap_err();
        assert!(!refused.own_line && refused.ahead == 4, "{refused:?}");
        assert_eq!(queue.waiting(), 4);
    }

    #[test]
    fn who_leaves_gives_up_the_place_and_the_turn() {
        let queue = Queue::new(1, 2);
        let (a, b) = (client("a"), client("b"));
        let running = enter(&queue, &a).unwrap();
        for _ in 0..100 {
            drop(wait(&queue, &a, "a"));
        }
        assert_eq!(queue.waiting(), 0);
        let left = wait(&queue, &a, "a");
        let next = wait(&queue, &b, "b");
        drop(running);
        // `left` has been given its turn and has not looked at it.
        drop(left);
        assert_eq!(order(Vec::new(), Vec::new()), "");
        let mut next = next.1;
        assert!(look(&mut next).is_some());
        drop(next);
        let state = queue.state();
        assert_eq!((state.running, state.waiting), (0, 0));
    }
}
