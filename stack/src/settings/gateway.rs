//! `[gateway]`: who needs a key, how many go through at a time, and what is added to requests.

use std::path::Path;

use super::{Engine, Models, table::Table};

/// Keys, turns, and what is added to requests.
#[derive(Debug, Clone, PartialEq)]
pub struct Gateway {
    /// Clients need an API key, but for the host's own.
    pub keys: bool,
    /// The host's own need one as well.
    pub keys_on_loopback: bool,
    /// Requests that the engine is given at a time for each model; 0: as many as it serves.
    pub slots: u32,
    /// Requests that may wait for a model.
    pub queue: u32,
    /// Asks the engine for the counters of streams in OpenAI's dialect.
    pub ask_for_usage: bool,
    /// An error for a prompt that does not fit, in place of a cut.
    pub refuse_truncation: bool,
}

impl Default for Gateway {
    fn default() -> Self {
        Gateway {
            keys: false,
            keys_on_loopback: false,
            slots: 0,
            queue: 512,
            ask_for_usage: false,
            refuse_truncation: false,
        }
    }
}

impl Gateway {
    /// What the gateway is started with, but for its addresses.
    pub(crate) fn args(&self, engine: &Engine, models: &Models, keys: &Path) -> Vec<String> {
        let slots = if self.slots == 0 { engine.num_parallel.max(1) } else { self.slots };
        let mut args = vec![format!("--slots={slots}"), format!("--queue={}", self.queue)];
        if self.keys {
            args.push(format!("--keys={}", keys.display()));
        }
        for (is_on, flag) in [
            (self.keys && self.keys_on_loopback, "--keys-on-loopback"),
            (self.ask_for_usage, "--ask-for-usage"),
            (self.refuse_truncation, "--refuse-truncation"),
        ] {
            args.extend(is_on.then(|| flag.to_owned()));
        }
        args.extend(models.warm.iter().map(|model| format!("--warm={model}")));
        args
    }
}

pub(super) fn read(mut table: Table<'_, '_>, gateway: &mut Gateway) {
    table.flag("keys", &mut gateway.keys);
    table.flag("keys_on_loopback", &mut gateway.keys_on_loopback);
    table.whole("slots", &mut gateway.slots, 0..=4096u32);
    table.whole("queue", &mut gateway.queue, 1..=65_536u32);
    table.flag("ask_for_usage", &mut gateway.ask_for_usage);
    table.flag("refuse_truncation", &mut gateway.refuse_truncation);
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::Settings;

    fn args(text: &str) -> String {
        let settings = Settings::parse(text, Path::new("stack.toml")).unwrap();
        settings.gateway.args(&settings.engine, &settings.models, Path::new("/k")).join(" ")
    }

    #[test]
    fn as_many_go_through_as_the_engine_serves() {
        assert_eq!(args(""), "--slots=1 --queue=512");
        assert_eq!(args("[engine]\nnum_parallel = 4\nmax_loaded_models = 2\n"), "--slots=4 --queue=512");
        assert_eq!(args("[gateway]\nslots = 1\nqueue = 9\n"), "--slots=1 --queue=9");
    }

    #[test]
    fn what_is_switched_on_is_asked_for() {
        let all = "[gateway]\nkeys = true\nkeys_on_loopback = true\nask_for_usage = true\nrefuse_truncation = true\n";
        let expected = "--slots=1 --queue=512 --keys=/k --keys-on-loopback --ask-for-usage --refuse-truncation";
        assert_eq!(args(all), expected);
        let warm = "[models]\nwarm = [\"a:7b\", \"b\"]\n";
        assert_eq!(args(warm), "--slots=1 --queue=512 --warm=a:7b --warm=b");
    }
}
