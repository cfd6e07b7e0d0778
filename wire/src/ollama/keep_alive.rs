//! How long a model stays in memory, in every spelling that Ollama takes.

use std::fmt;
use std::time::Duration;

use serde::de::{self, Deserializer, Visitor};
use serde::ser::Serializer;
use serde::{Deserialize, Serialize};

/// How long a model stays in memory after its last request.
///
/// On the wire: a number of seconds or a duration as Go writes them (`"5m"`, `"1h30m"`); negative means forever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeepAlive {
    /// This long. Zero: it leaves as soon as it is idle.
    For(Duration),
    /// Until someone says otherwise.
    Forever,
}

impl KeepAlive {
    /// From a number of seconds; negative, or too large to matter, is forever. `None` if it is no number.
    pub fn from_seconds(seconds: f64) -> Option<Self> {
        if seconds.is_nan() {
            return None;
        }
        Some(Duration::try_from_secs_f64(seconds).map_or(Self::Forever, Self::For))
    }

    /// From a duration as Go's `time.ParseDuration` reads them: signed decimals, each with its unit, or a plain `0`.
    pub fn parse(text: &str) -> Option<Self> {
        let negative = text.starts_with('-');
        let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
        if unsigned == "0" {
            return Some(Self::For(Duration::ZERO));
        }
        let mut rest = unsigned;
        let mut seconds = 0.0;
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
            let number: f64 = rest[..digits].parse().ok()?;
            rest = &rest[digits..];
            let letters = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
            seconds += number * unit_seconds(&rest[..letters])?;
            rest = &rest[letters..];
        }
        match (unsigned.is_empty(), negative && seconds > 0.0) {
            (true, _) => None,
            (false, true) => Some(Self::Forever),
            (false, false) => Self::from_seconds(seconds),
        }
    }
}

/// Seconds in one of Go's units of time.
fn unit_seconds(unit: &str) -> Option<f64> {
    Some(match unit {
        "ns" => 1e-9,
        // U+00B5 and U+03BC: two characters that look alike, and Go takes both.
        "us" | "\u{b5}s" | "\u{3bc}s" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return None,
    })
}

impl Serialize for KeepAlive {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Forever => serializer.serialize_i64(-1),
            Self::For(duration) => serializer.collect_str(&format_args!("{}s", duration.as_secs_f64())),
        }
    }
}

impl<'de> Deserialize<'de> for KeepAlive {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(KeepAliveVisitor)
    }
}

struct KeepAliveVisitor;

impl Visitor<'_> for KeepAliveVisitor {
    type Value = KeepAlive;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number of seconds or a duration such as \"5m\"")
    }

    fn visit_u64<E: de::Error>(self, seconds: u64) -> Result<KeepAlive, E> {
        Ok(KeepAlive::For(Duration::from_secs(seconds)))
    }

    fn visit_i64<E: de::Error>(self, seconds: i64) -> Result<KeepAlive, E> {
        Ok(u64::try_from(seconds).map_or(KeepAlive::Forever, |seconds| KeepAlive::For(Duration::from_secs(seconds))))
    }

    fn visit_f64<E: de::Error>(self, seconds: f64) -> Result<KeepAlive, E> {
        KeepAlive::from_seconds(seconds).ok_or_else(|| E::invalid_value(de::Unexpected::Float(seconds), &self))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<KeepAlive, E> {
        KeepAlive::parse(text).ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::from_str;

    use super::*;

    #[test]
    fn reads_keep_alive_in_every_spelling() {
        let read = |text: &str| from_str::<KeepAlive>(text).ok();
        let seconds = |seconds| Some(KeepAlive::For(Duration::from_secs_f64(seconds)));
        assert_eq!(read("0"), seconds(0.0));
        assert_eq!(read("300"), seconds(300.0));
        assert_eq!(read("1.5"), seconds(1.5));
        assert_eq!(read("-1"), Some(KeepAlive::Forever));
        assert_eq!(read("1e300"), Some(KeepAlive::Forever));
        assert_eq!(read(r#""0""#), seconds(0.0));
        assert_eq!(read(r#""1h30m""#), seconds(5400.0));
        assert_eq!(read(r#""250ms""#), seconds(0.25));
        assert_eq!(read(r#""-1m""#), Some(KeepAlive::Forever));
        assert_eq!(read(r#""-1""#), None, "a number in a string lacks a unit");
        assert_eq!(read(r#""""#), None);
        assert_eq!(read(r#""m""#), None);
        assert_eq!(read("true"), None);
    }

    #[test]
    fn keep_alive_survives_the_wire() {
        for keep_alive in
            [KeepAlive::Forever, KeepAlive::For(Duration::ZERO), KeepAlive::For(Duration::from_millis(1500))]
        {
            let written = serde_json::to_string(&keep_alive).unwrap();
            assert_eq!(from_str::<KeepAlive>(&written).unwrap(), keep_alive, "{written}");
        }
    }
}
