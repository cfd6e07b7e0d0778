//! A stage whose settings name another machine: this one, by way of a real sshd on loopback, with keys and a configuration
//! of its own; and a wire to it that is slow, or is cut.

use std::{
    env, fs,
    io::{self, Read, Write},
    net::{Ipv4Addr, Shutdown, TcpListener, TcpStream},
    ops::Deref,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::channel,
    },
    thread,
    time::{Duration, Instant},
};

use crate::stage::{Job, Stage, WITH_A_BUILD, lacks, system, until};

/// How the ssh on PATH is told, by the run, where the wire begins and what the client's standard input goes through.
const SSH: &str = r#"
case " $* " in *" -G "*) exec $ssh "$@";; esac
echo session >> "$folder/sessions"
[ -z "$FAR_FILTER" ] && exec $ssh "$@"
# Only the filter holds our standard output: when it ends, so does what the client reads.
exec 3>&1 4<&0 >/dev/null
$ssh "$@" <&4 3>&- | eval "$FAR_FILTER" >&3 &
pipe=$!; exec 3>&- 4<&-; wait $pipe
"#;

pub(crate) struct Far {
    // Dropped first: its uninstall goes over the connection.
    stage: Stage,
    pub(crate) sshd: Option<Job>,
    pub(crate) port: u16,
    /// Who one is there: what runs before the login shell.
    user: String,
}

impl Deref for Far {
    type Target = Stage;

    fn deref(&self) -> &Stage {
        &self.stage
    }
}

impl Far {
    /// sshd runs, and nothing is deployed. `None`: there is no sshd to be had.
    pub(crate) fn new() -> Option<Self> {
        if lacks("sshd") || lacks("ssh") {
            return None;
        }
        let stage = Stage::new();
        let settings = fs::read_to_string(stage.path("stack.toml")).unwrap();
        stage.write("stack.toml", &settings.replace("[host]\n", "[host]\naddress = \"far\"\n"));
        for key in ["host_key", "user_key"] {
            stage.shell(&format!("ssh-keygen -q -t ed25519 -N '' -f {key}")).exits(0);
        }
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
        let mut far = Far { stage, sshd: None, port, user: String::new() };
        let folder = far.path("");
        far.script(
            "ssh",
            &format!(
                "folder='{0}'\nssh=\"/usr/bin/ssh -F {0}/ssh_config -o Port=${{FAR_PORT:-{port}}} -o ControlMaster=no -o \
                 ControlPath=none\"\n{SSH}",
                folder.display()
            ),
        );
        far.cargo_wrapper();
        far.log_in_with("/bin/sh");
        Some(far)
    }

    /// A first release runs there.
    pub(crate) fn deployed() -> Option<Self> {
        let far = Far::new()?;
        far.deploy_first();
        Some(far)
    }

    /// The first of all these deploys builds the program for the host, and the others wait for that.
    pub(crate) fn deploy_first(&self) {
        self.start("deploy").finish_within(WITH_A_BUILD).exits(0);
    }

    /// From now on one is somebody else there, whose the whole stage is. Only root can do that.
    pub(crate) fn log_in_as(&mut self, id: u32) {
        system("chown", &["-R", &format!("{id}:{id}"), self.path("").to_str().unwrap()]);
        self.user = format!("setpriv --reuid={id} --regid={id} --clear-groups");
        self.log_in_with("/bin/sh");
    }

    /// (Re)starts sshd so that every command runs under this login shell, as sshd itself would run it.
    pub(crate) fn log_in_with(&mut self, shell: &str) {
        self.sshd = None;
        let folder = self.path("");
        let (folder, port, user) = (folder.display(), self.port, &self.user);
        self.write(
            "sshd_config",
            &format!(
                "Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host_key\nPidFile none\nUsePAM no\nStrictModes no\n\
                 MaxStartups 200\nAuthorizedKeysFile {folder}/user_key.pub\n\
                 ForceCommand exec {user} env HOME={folder} PATH={folder}/bin:/usr/local/bin:/usr/bin:/bin {shell} -c \"$SSH_ORIGINAL_COMMAND\"
"
            ),
        );
        self.know_host_key();
        self.write(
            "ssh_config",
            &format!(
                "Host far\n HostName 127.0.0.1\n HostKeyAlias far\n IdentityFile {folder}/user_key\n IdentitiesOnly yes\n \
                 UserKnownHostsFile {folder}/known_hosts\n"
            ),
        );
        fs::create_dir_all("/run/sshd").unwrap_or_default();
        self.sshd = Some(self.start_program(Path::new("/usr/sbin/sshd"), "-D -e -f sshd_config"));
        until("sshd listens", || TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).ok());
    }

    pub(crate) fn know_host_key(&self) {
        self.write("known_hosts", &format!("far {}", fs::read_to_string(self.path("host_key.pub")).unwrap()));
    }

    /// What builds the program for the host needs the developer's own environment, which a stage does not have.
    fn cargo_wrapper(&self) {
        let variables = ["HOME", "PATH", "CARGO_HOME", "RUSTUP_HOME", "CARGO_TARGET_DIR"];
        let set = variables.iter().filter_map(|name| Some(format!("{name}='{}'", env::var(name).ok()?)));
        let workspace = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
        self.script("cargo", &format!("cd '{workspace}' && {} exec cargo \"$@\"", set.collect::<Vec<_>>().join(" ")));
    }

    /// Starts the binary with variables of its own: `FAR_PORT`, `FAR_FILTER`.
    pub(crate) fn start_with(&self, variables: &str, line: &str) -> Job {
        self.start_shell(&format!("{variables} exec \"$XTASK\" {line}"))
    }

    /// Starts the binary behind a wire.
    pub(crate) fn start_behind(&self, wire: &Wire, line: &str) -> Job {
        self.start_with(&format!("FAR_PORT={}", wire.port), line)
    }

    /// How many ssh sessions this takes.
    pub(crate) fn sessions(&self, act: impl FnOnce()) -> usize {
        let _ = fs::remove_file(self.path("sessions"));
        act();
        fs::read_to_string(self.path("sessions")).unwrap_or_default().lines().count()
    }

    /// The newest job there.
    pub(crate) fn job(&self) -> String {
        let jobs = self.ok("job list --json").json();
        jobs.as_array().unwrap().last().unwrap()["id"].as_str().unwrap().to_owned()
    }

    /// Waits until nothing goes on there, asked as the host itself would be.
    pub(crate) fn await_jobs(&self) {
        until("no job runs", || {
            let jobs = self.root().join("state/jobs");
            let ends = |job: io::Result<fs::DirEntry>| job.is_ok_and(|job| !is_locked(&job.path().join("lock")));
            fs::read_dir(jobs).into_iter().flatten().all(ends).then_some(())
        });
    }
}

fn is_locked(path: &Path) -> bool {
    fs::File::open(path).is_ok_and(|file| file.try_lock_shared().is_err())
}

/// A way to a port that takes its time, and that is cut once so many bytes have come back.
pub(crate) struct Wire {
    pub(crate) port: u16,
    /// What has come back so far.
    carried: Arc<AtomicU64>,
}

impl Wire {
    /// Each way takes half of `latency`.
    pub(crate) fn to(port: u16, latency: Duration, cut_after: u64) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let wire = Wire { port: listener.local_addr().unwrap().port(), carried: Arc::default() };
        let carried = Arc::clone(&wire.carried);
        thread::spawn(move || {
            // One client, one connection: sharing is off.
            let (near, _) = listener.accept().unwrap();
            let far = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
            let (near_reader, far_writer) = (near.try_clone().unwrap(), far.try_clone().unwrap());
            thread::spawn(move || carry(near_reader, far_writer, latency / 2, &AtomicU64::new(0), u64::MAX));
            carry(far, near, latency / 2, &carried, cut_after);
        });
        wire
    }

    pub(crate) fn carried(&self) -> u64 {
        self.carried.load(Ordering::Relaxed)
    }
}

/// Carries bytes one way; the end of one side, or the cut, ends both.
fn carry(mut from: TcpStream, mut to: TcpStream, delay: Duration, carried: &AtomicU64, cut_after: u64) {
    let (sender, due) = channel::<(Instant, Vec<u8>)>();
    let mut source = from.try_clone().unwrap();
    let reader = thread::spawn(move || {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(size @ 1..) = source.read(&mut buffer) {
            if sender.send((Instant::now() + delay, buffer[..size].to_vec())).is_err() {
                return;
            }
        }
    });
    for (at, bytes) in due {
        thread::sleep(at.saturating_duration_since(Instant::now()));
        let left = usize::try_from(cut_after - carried.load(Ordering::Relaxed)).unwrap_or(usize::MAX);
        let bytes = &bytes[..bytes.len().min(left)];
        if to.write_all(bytes).is_err() {
            break;
        }
        carried.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        if carried.load(Ordering::Relaxed) >= cut_after {
            break;
        }
    }
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
    let _ = (from.flush(), reader.join());
}

/// The same numbers every time: SplitMix64.
pub(crate) fn offsets(seed: u64, below: u64) -> impl Iterator<Item = u64> {
    let mut state = seed;
    std::iter::repeat_with(move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % below
    })
}
