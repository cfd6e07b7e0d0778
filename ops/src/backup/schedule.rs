//! Having the host back up by itself: launchd on a Mac, a systemd timer where systemd runs, cron elsewhere.
//!
//! Invariant: what is put there is found again by its name, which has the root in it: replaced, never doubled, and never
//! another stack's.

use std::{
    fs,
    path::{Path, PathBuf},
};

use backup::Digest;
use chrono::{DateTime, Datelike, Days, Local, NaiveTime};
use stack::{
    failure::{Class, Doing, Failure},
    launchd,
    layout::Root,
    process::{self, Answer, Command},
    settings::TimeOfDay,
};

use super::{Backup, Stack, home};

/// What a scheduled run finds programs on.
const PATH: &str = "/opt/homebrew/bin:/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin";

/// A drill starts so many hours after the backup, on Sundays: they must not meet.
const DRILL_AFTER: u32 = 6;

/// What runs by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Task {
    /// Its name in the system.
    name: String,
    /// What it is to a person.
    what: &'static str,
    program: PathBuf,
    args: Vec<String>,
    log: PathBuf,
    at: TimeOfDay,
    weekly: bool,
}

/// What is to run by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// When each day.
    pub at: TimeOfDay,
    /// Whether there is a drill each week as well.
    pub drill: bool,
    /// Another repository than that of the settings.
    pub repository: Option<PathBuf>,
}

/// What was put in place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scheduled {
    /// `launchd`, `systemd` or `cron`.
    pub by: &'static str,
    /// When the next backup begins.
    pub next: DateTime<Local>,
    /// When the next drill begins, if there is one.
    pub next_drill: Option<DateTime<Local>>,
}

/// Who runs things at their time.
enum Scheduler {
    Launchd { user: String, home: PathBuf },
    Systemd { folder: PathBuf, is_user: bool },
    Cron { program: PathBuf },
}

/// What root has to do before [`schedule`] and [`unschedule`], which need no root themselves: on a Mac, whatever launchd
/// has not as it should. `None`: no longer.
pub fn as_root(backup: &Backup, wanted: Option<&Wanted>) -> Result<Vec<Command>, Failure> {
    let root = &stack_of(backup)?.root;
    let Scheduler::Launchd { user, home } = Scheduler::find(backup)? else { return Ok(Vec::new()) };
    let tasks = wanted.map_or(Ok(Vec::new()), |wanted| tasks(root, wanted))?;
    let mut commands = Vec::new();
    for name in names(root) {
        let is_loaded = process::look_up("launchctl", &["print", &format!("system/{name}")]).is_some();
        let place = launchd::place(&name);
        let Some(task) = tasks.iter().find(|task| task.name == name) else {
            commands.extend((is_loaded || Path::new(&place).exists()).then(|| launchd::remove(&name)));
            continue;
        };
        let text = plist(task, &user, &home);
        if is_loaded && fs::read_to_string(&place).is_ok_and(|it| it == text) {
            continue;
        }
        // It stays: whoever runs the commands by hand needs it.
        let staged = root.data().join(format!("{name}.plist"));
        fs::write(&staged, text).doing("cannot write", &staged)?;
        commands.extend(launchd::install(&name, &staged, is_loaded));
    }
    Ok(commands)
}

/// Has the host back up each day.
pub fn schedule(backup: &Backup, wanted: &Wanted, now: DateTime<Local>) -> Result<Scheduled, Failure> {
    let stack = stack_of(backup)?;
    let tasks = tasks(&stack.root, wanted)?;
    let scheduler = Scheduler::find(backup)?;
    scheduler.remove(&stack.root)?;
    scheduler.put(&stack.root, &tasks)?;
    let by = scheduler.name();
    let words = format!("daily at {} by {by}", wanted.at);
    backup.write_down(|backups| backups.scheduled = Some(words))?;
    let next_drill = tasks.get(1).map(|task| next(now, task));
    Ok(Scheduled { by, next: next(now, &tasks[0]), next_drill })
}

/// Undoes [`schedule`].
pub fn unschedule(backup: &Backup) -> Result<(), Failure> {
    let stack = stack_of(backup)?;
    Scheduler::find(backup)?.remove(&stack.root)?;
    backup.write_down(|backups| backups.scheduled = None)
}

/// Whether the scheduler of a system has the backup of a root loaded; `None`: it cannot be asked.
pub fn is_scheduled(root: &Path, system: &str) -> Option<bool> {
    let root = Root::new(root.to_owned());
    let name = format!("{}-backup", name(&root));
    if system == "Darwin" {
        return Some(process::look_up("launchctl", &["print", &format!("system/{name}")]).is_some());
    }
    let timer = format!("{name}.timer");
    let is_active = |words: &[&str]| process::look_up("systemctl", words).is_some();
    if is_active(&["is-active", &timer]) || is_active(&["--user", "is-active", &timer]) {
        return Some(true);
    }
    let table = crontab(&process::find("crontab")?).ok()?;
    Some(table.contains(&marks(&root)[0]))
}

fn stack_of(backup: &Backup) -> Result<&Stack, Failure> {
    backup.stack.as_ref().ok_or_else(|| {
        Failure::new(Class::Settings, "there is no stack here whose backup could be scheduled")
            .hint("name its settings with --settings")
    })
}

fn tasks(root: &Root, wanted: &Wanted) -> Result<Vec<Task>, Failure> {
    if !root.program().exists() {
        let message = format!("nothing is deployed in {}", root.path().display());
        return Err(Failure::new(Class::Nothing, message).hint("`cargo xtask deploy`, then schedule"));
    }
    Ok(all_tasks(root, wanted))
}

fn all_tasks(root: &Root, Wanted { at, drill, repository }: &Wanted) -> Vec<Task> {
    let named = repository.iter().flat_map(|it| ["--repository".to_owned(), it.display().to_string()]);
    let task = |what, words: &[&str], at, weekly| Task {
        name: format!("{}-{what}", name(root)),
        what,
        program: root.program(),
        args: words.iter().map(|word| (*word).to_owned()).chain(named.clone()).collect(),
        log: root.logs().join("backup.log"),
        at,
        weekly,
    };
    let mut tasks = vec![task("backup", &["backup"], *at, false)];
    if *drill {
        let later = TimeOfDay { hour: (at.hour + DRILL_AFTER) % 24, ..*at };
        tasks.push(task("drill", &["backup", "drill"], later, true));
    }
    tasks
}

/// The same for all tasks of a root, and another for each root.
fn name(root: &Root) -> String {
    let hash = Digest::of(root.path().as_os_str().as_encoded_bytes()).to_string();
    format!("frontier-llm-{}", &hash[..8])
}

/// What a root's tasks can be called.
fn names(root: &Root) -> [String; 2] {
    ["backup", "drill"].map(|what| format!("{}-{what}", name(root)))
}

/// When a task begins next, on the host's clock.
fn next(now: DateTime<Local>, task: &Task) -> DateTime<Local> {
    let time = NaiveTime::from_hms_opt(task.at.hour, task.at.minute, 0).unwrap_or_default();
    let days = (0..9).filter_map(|days| now.date_naive().checked_add_days(Days::new(days)));
    let right_days = days.filter(|day| !task.weekly || day.weekday() == chrono::Weekday::Sun);
    // An hour that the clock jumps over, in spring, is made up for by the next day's.
    let times = right_days.filter_map(|day| day.and_time(time).and_local_timezone(Local).earliest());
    times.into_iter().find(|time| *time > now).unwrap_or(now)
}

impl Scheduler {
    fn find(backup: &Backup) -> Result<Self, Failure> {
        if backup.system == "Darwin" {
            let user = ask(&command("id", &["-un"])?, "")?.stdout.trim().to_owned();
            return Ok(Scheduler::Launchd { user, home: home(Path::new("~"))? });
        }
        if let Ok(systemctl) = command("systemctl", &["is-system-running"])
            && let Ok(answer) = ask(&systemctl, "")
            && ["running", "degraded", "starting", "initializing"].contains(&answer.stdout.trim())
        {
            let is_user = ask(&command("id", &["-u"])?, "")?.stdout.trim() != "0";
            let folder = match is_user {
                true => home(Path::new("~/.config/systemd/user"))?,
                false => PathBuf::from("/etc/systemd/system"),
            };
            return Ok(Scheduler::Systemd { folder, is_user });
        }
        let found = command("crontab", &[]).map(|it| Scheduler::Cron { program: it.program });
        found.map_err(|_| {
            Failure::new(Class::Refused, "neither launchd, systemd nor cron runs things on this host")
                .hint("install cron, or call `bin/xtask backup` below the stack's root from whatever does")
        })
    }

    fn name(&self) -> &'static str {
        match self {
            Scheduler::Launchd { .. } => "launchd",
            Scheduler::Systemd { .. } => "systemd",
            Scheduler::Cron { .. } => "cron",
        }
    }

    fn put(&self, root: &Root, tasks: &[Task]) -> Result<(), Failure> {
        match self {
            Scheduler::Launchd { .. } => Ok(()),
            Scheduler::Systemd { folder, is_user } => {
                fs::create_dir_all(folder).doing("cannot make", folder)?;
                for task in tasks {
                    for (ending, text) in [("service", service(task)), ("timer", timer(task))] {
                        let unit = folder.join(format!("{}.{ending}", task.name));
                        fs::write(&unit, text).doing("cannot write", &unit)?;
                    }
                }
                systemctl(*is_user, &["daemon-reload"])?;
                for task in tasks {
                    systemctl(*is_user, &["enable", "--now", &format!("{}.timer", task.name)])?;
                }
                if *is_user { linger() } else { Ok(()) }
            }
            Scheduler::Cron { program } => {
                let mut table = without(&crontab(program)?, root);
                table.push_str(&block(root, tasks));
                write_crontab(program, &table)
            }
        }
    }

    fn remove(&self, root: &Root) -> Result<(), Failure> {
        match self {
            Scheduler::Launchd { .. } => Ok(()),
            Scheduler::Systemd { folder, is_user } => {
                let found: Vec<_> =
                    names(root).into_iter().filter(|it| folder.join(format!("{it}.timer")).exists()).collect();
                for name in &found {
                    systemctl(*is_user, &["disable", "--now", &format!("{name}.timer")])?;
                    for ending in ["service", "timer"] {
                        let unit = folder.join(format!("{name}.{ending}"));
                        fs::remove_file(&unit).doing("cannot remove", &unit)?;
                    }
                }
                if found.is_empty() { Ok(()) } else { systemctl(*is_user, &["daemon-reload"]) }
            }
            Scheduler::Cron { program } => {
                let table = crontab(program)?;
                let rest = without(&table, root);
                if rest == table { Ok(()) } else { write_crontab(program, &rest) }
            }
        }
    }
}

/// A launchd daemon under the user's name: an agent would run only while somebody is logged in.
fn plist(task: &Task, user: &str, home: &Path) -> String {
    let words = [task.program.display().to_string()].into_iter().chain(task.args.iter().cloned());
    let words: String = words.map(|it| format!("    <string>{}</string>\n", escape(&it))).collect();
    let weekday = if task.weekly { "    <key>Weekday</key><integer>0</integer>\n" } else { "" };
    let log = escape(&task.log.display().to_string());
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
         <!DOCTYPE plist PUBLIC \"-//Apple//DTD PLIST 1.0//EN\" \"http://www.apple.com/DTDs/PropertyList-1.0.dtd\">\n\
         <plist version=\"1.0\">\n<dict>\n\
         \x20 <key>Label</key><string>{label}</string>\n\
         \x20 <key>UserName</key><string>{user}</string>\n\
         \x20 <key>ProgramArguments</key>\n  <array>\n{words}  </array>\n\
         \x20 <key>EnvironmentVariables</key>\n  <dict>\n\
         \x20   <key>HOME</key><string>{home}</string>\n\
         \x20   <key>PATH</key><string>{PATH}</string>\n  </dict>\n\
         \x20 <key>StartCalendarInterval</key>\n  <dict>\n{weekday}\
         \x20   <key>Hour</key><integer>{hour}</integer>\n\
         \x20   <key>Minute</key><integer>{minute}</integer>\n  </dict>\n\
         \x20 <key>StandardOutPath</key><string>{log}</string>\n\
         \x20 <key>StandardErrorPath</key><string>{log}</string>\n\
         </dict>\n</plist>\n",
        label = task.name,
        user = escape(user),
        home = escape(&home.display().to_string()),
        hour = task.at.hour,
        minute = task.at.minute,
    )
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

fn service(task: &Task) -> String {
    let words = [task.program.display().to_string()].into_iter().chain(task.args.iter().cloned());
    // systemd reads quotes and backslashes as a shell does, and `%` and `$` as its own.
    let quote = |it: String| {
        format!("\"{}\"", it.replace('\\', "\\\\").replace('"', "\\\"").replace('%', "%%").replace('$', "$$"))
    };
    let words: Vec<String> = words.map(quote).collect();
    let log = task.log.display().to_string().replace('%', "%%");
    format!(
        "[Unit]\nDescription=Frontier LLM stack: {}\n\n[Service]\nType=oneshot\nExecStart={}\nEnvironment=PATH={PATH}\n\
         StandardOutput=append:{log}\nStandardError=append:{log}\n",
        task.what,
        words.join(" ")
    )
}

fn timer(task: &Task) -> String {
    let day = if task.weekly { "Sun " } else { "" };
    format!(
        "[Unit]\nDescription=Frontier LLM stack: {}, at its time\n\n[Timer]\nOnCalendar={day}*-*-* {}:00\nPersistent=true\n\n\
         [Install]\nWantedBy=timers.target\n",
        task.what, task.at
    )
}

fn systemctl(is_user: bool, words: &[&str]) -> Result<(), Failure> {
    let words: Vec<&str> = is_user.then_some("--user").into_iter().chain(words.iter().copied()).collect();
    must(&command("systemctl", &words)?, "").map(drop)
}

/// A user's timers run while the user is logged in, unless told otherwise.
fn linger() -> Result<(), Failure> {
    must(&command("loginctl", &["enable-linger"])?, "").map(drop).map_err(|failure| Failure {
        class: Class::Refused,
        hint: Some("the timers run only while you are logged in: `sudo loginctl enable-linger $USER`".to_owned()),
        ..failure
    })
}

/// Begin and end of our lines in a crontab.
fn marks(root: &Root) -> [String; 2] {
    ["begin", "end"].map(|it| format!("# {} {it}: the backup of {}\n", name(root), root.path().display()))
}

fn block(root: &Root, tasks: &[Task]) -> String {
    let quote = |text: String| format!("'{}'", text.replace('\'', "'\\''").replace('%', "\\%"));
    let is_plain = |text: &str| text.chars().all(|c| c.is_ascii_alphanumeric() || "-_./".contains(c));
    let word = |text: &String| if is_plain(text) { text.clone() } else { quote(text.clone()) };
    let line = |task: &Task| {
        let (minute, hour, day) = (task.at.minute, task.at.hour, if task.weekly { "0" } else { "*" });
        let (program, log) = (quote(task.program.display().to_string()), quote(task.log.display().to_string()));
        let words: Vec<String> = task.args.iter().map(word).collect();
        format!("{minute} {hour} * * {day} PATH={PATH} {program} {} >>{log} 2>&1\n", words.join(" "))
    };
    let [begin, end] = marks(root);
    format!("{begin}{}{end}", tasks.iter().map(line).collect::<String>())
}

/// A crontab without our lines.
fn without(table: &str, root: &Root) -> String {
    let [begin, end] = marks(root);
    match table.split_once(&begin) {
        Some((before, rest)) => format!("{before}{}", rest.split_once(&end).map_or("", |(_, after)| after)),
        None => table.to_owned(),
    }
}

/// The user's crontab; none is an empty one.
fn crontab(program: &Path) -> Result<String, Failure> {
    let command = Command { program: program.to_owned(), args: vec!["-l".to_owned()], env: Default::default() };
    let answer = ask(&command, "")?;
    match answer.success {
        true => Ok(answer.stdout),
        false if answer.stderr.contains("no crontab") => Ok(String::new()),
        false => Err(failed(&command, &answer)),
    }
}

fn write_crontab(program: &Path, table: &str) -> Result<(), Failure> {
    let command = Command { program: program.to_owned(), args: vec!["-".to_owned()], env: Default::default() };
    must(&command, table).map(drop)
}

fn command(program: &str, args: &[&str]) -> Result<Command, Failure> {
    let found = process::find(program);
    let found = found.ok_or_else(|| Failure::new(Class::Failed, format!("there is no {program} on this host")))?;
    Ok(Command { program: found, args: args.iter().map(ToString::to_string).collect(), env: Default::default() })
}

fn ask(command: &Command, input: &str) -> Result<Answer, Failure> {
    process::ask(command, input)
        .map_err(|error| Failure::new(Class::Failed, format!("cannot run {command}")).because(&error))
}

fn must(command: &Command, input: &str) -> Result<Answer, Failure> {
    let answer = ask(command, input)?;
    if answer.success { Ok(answer) } else { Err(failed(command, &answer)) }
}

fn failed(command: &Command, answer: &Answer) -> Failure {
    let mut failure = Failure::new(Class::Failed, format!("{command} failed"));
    failure.causes.extend(answer.stderr.lines().last().map(str::to_owned));
    failure
}

#[cfg(test)]
mod tests {
    use chrono::TimeZone;

    use super::*;

    fn root() -> Root {
        Root::new("/home/me/it's 100%/stack".into())
    }

    fn both() -> Vec<Task> {
        all_tasks(&root(), &Wanted { at: TimeOfDay { hour: 20, minute: 5 }, drill: true, repository: None })
    }

    #[test]
    fn a_crontab_keeps_what_is_not_ours() {
        let theirs = "MAILTO=me\n1 2 * * * theirs\n";
        let other = block(&Root::new("/other".into()), &both());
        let table = format!("{theirs}{}{other}", block(&root(), &both()));
        assert_eq!(without(&table, &root()), format!("{theirs}{other}"));
        assert_eq!(without(theirs, &root()), theirs);
        insta::assert_snapshot!(block(&root(), &both()), @r#"
        # frontier-llm-fb87a013 begin: the backup of /home/me/it's 100%/stack
        5 20 * * * PATH=/opt/homebrew/bin:/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin '/home/me/it'\''s 100\%/stack/bin/xtask' backup >>'/home/me/it'\''s 100\%/stack/logs/backup.log' 2>&1
        5 2 * * 0 PATH=/opt/homebrew/bin:/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin '/home/me/it'\''s 100\%/stack/bin/xtask' backup drill >>'/home/me/it'\''s 100\%/stack/logs/backup.log' 2>&1
        # frontier-llm-fb87a013 end: the backup of /home/me/it's 100%/stack
        "#);
    }

    #[test]
    fn a_timer_and_its_service_say_what_runs_and_when() {
        let [backup, drill] = &both()[..] else { panic!("two tasks") };
        insta::assert_snapshot!(format!("{}\n{}", service(backup), timer(drill)), @r#"
        [Unit]
        Description=Frontier LLM stack: backup

        [Service]
        Type=oneshot
        ExecStart="/home/me/it's 100%%/stack/bin/xtask" "backup"
        Environment=PATH=/opt/homebrew/bin:/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin
        StandardOutput=append:/home/me/it's 100%%/stack/logs/backup.log
        StandardError=append:/home/me/it's 100%%/stack/logs/backup.log

        [Unit]
        Description=Frontier LLM stack: drill, at its time

        [Timer]
        OnCalendar=Sun *-*-* 02:05:00
        Persistent=true

        [Install]
        WantedBy=timers.target
        "#);
    }

    #[test]
    fn a_daemon_runs_under_the_users_name() {
        insta::assert_snapshot!(plist(&both()[1], "me", Path::new("/Users/me & you")), @r#"
        <?xml version="1.0" encoding="UTF-8"?>
        <!DOCTYPE plist PUBLIC "-//Apple//DTD PLIST 1.0//EN" "http://www.apple.com/DTDs/PropertyList-1.0.dtd">
        <plist version="1.0">
        <dict>
          <key>Label</key><string>frontier-llm-fb87a013-drill</string>
          <key>UserName</key><string>me</string>
          <key>ProgramArguments</key>
          <array>
            <string>/home/me/it's 100%/stack/bin/xtask</string>
            <string>backup</string>
            <string>drill</string>
          </array>
          <key>EnvironmentVariables</key>
          <dict>
            <key>HOME</key><string>/Users/me &amp; you</string>
            <key>PATH</key><string>/opt/homebrew/bin:/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin</string>
          </dict>
          <key>StartCalendarInterval</key>
          <dict>
            <key>Weekday</key><integer>0</integer>
            <key>Hour</key><integer>2</integer>
            <key>Minute</key><integer>5</integer>
          </dict>
          <key>StandardOutPath</key><string>/home/me/it's 100%/stack/logs/backup.log</string>
          <key>StandardErrorPath</key><string>/home/me/it's 100%/stack/logs/backup.log</string>
        </dict>
        </plist>
        "#);
    }

    #[test]
    fn the_next_run_is_the_first_that_is_still_to_come() {
        let now = Local.with_ymd_and_hms(2026, 11, 25, 20, 5, 0).unwrap();
        let [backup, drill] = &both()[..] else { panic!("two tasks") };
        assert_eq!(next(now, backup).to_string()[..16], *"2026-11-26 20:05");
        // 20:05 and six hours are 02:05, on Sundays.
        assert_eq!(next(now, drill).to_string()[..16], *"2026-11-29 02:05");
    }
}
