//! The kinds of value a key may hold, each parsed once into a type that can't hold a bad one.

use std::fmt;
use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::str::FromStr;

use serde::de::{self, Deserializer, SeqAccess, Visitor};
use serde::{Deserialize, Serialize, Serializer};
use tracing::metadata::LevelFilter;
use tracing_subscriber::filter::Targets;

/// A node's name: 1 to [`NodeName::BYTES_MAX`] of `a`-`z`, `0`-`9` and `-`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct NodeName(String);

impl NodeName {
    /// Session ids begin with the name, and long ids bloat every request.
    pub const BYTES_MAX: usize = 16;

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// A name made from the machine's: lower case, what isn't allowed turned into `-`,
    /// only the part before the first dot. `local` if nothing is left.
    fn from_hostname(hostname: &str) -> NodeName {
        let label = hostname.trim().split('.').next().unwrap_or_default().to_ascii_lowercase();
        let replaced: String =
            label.chars().map(|c| if is_name_char(c) { c } else { '-' }).collect();
        let cut: String = replaced.trim_matches('-').chars().take(NodeName::BYTES_MAX).collect();
        let name = cut.trim_matches('-');
        NodeName(if name.is_empty() { "local".to_owned() } else { name.to_owned() })
    }
}

fn is_name_char(c: char) -> bool {
    matches!(c, 'a'..='z' | '0'..='9' | '-')
}

impl Default for NodeName {
    fn default() -> NodeName {
        // The kernel's own answer; a machine without it gets a name all the same.
        NodeName::from_hostname(
            &std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default(),
        )
    }
}

impl FromStr for NodeName {
    type Err = String;

    fn from_str(text: &str) -> Result<NodeName, String> {
        let fits = (1..=NodeName::BYTES_MAX).contains(&text.len());
        if fits && text.chars().all(is_name_char) {
            return Ok(NodeName(text.to_owned()));
        }
        Err(format!(
            "{text:?} is no node name: use 1 to {} of the characters a-z, 0-9 and '-'",
            NodeName::BYTES_MAX
        ))
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// How many shards run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ShardCount {
    /// One per cpu this process may use.
    #[default]
    Auto,
    /// Exactly so many, at most [`ShardCount::MAX`].
    Fixed(NonZeroU16),
}

impl ShardCount {
    /// Shards are numbered in 16 bits, and no machine we know has more cores.
    pub const MAX: u16 = 1_024;

    fn fixed(count: i64) -> Result<ShardCount, String> {
        u16::try_from(count)
            .ok()
            .filter(|count| *count <= ShardCount::MAX)
            .and_then(NonZeroU16::new)
            .map(ShardCount::Fixed)
            .ok_or_else(|| {
                format!("{count} is no number of shards: use \"auto\" or 1 to {}", ShardCount::MAX)
            })
    }
}

impl FromStr for ShardCount {
    type Err = String;

    fn from_str(text: &str) -> Result<ShardCount, String> {
        if text == "auto" {
            return Ok(ShardCount::Auto);
        }
        let count = text.parse::<i64>().map_err(|_| {
            format!("{text:?} is no number of shards: use \"auto\" or 1 to {}", ShardCount::MAX)
        })?;
        ShardCount::fixed(count)
    }
}

impl Serialize for ShardCount {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            ShardCount::Auto => serializer.serialize_str("auto"),
            ShardCount::Fixed(count) => serializer.serialize_u16(count.get()),
        }
    }
}

impl<'de> Deserialize<'de> for ShardCount {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<ShardCount, D::Error> {
        struct Count;
        impl Visitor<'_> for Count {
            type Value = ShardCount;
            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(formatter, "\"auto\" or a number from 1 to {}", ShardCount::MAX)
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<ShardCount, E> {
                text.parse().map_err(E::custom)
            }
            fn visit_i64<E: de::Error>(self, count: i64) -> Result<ShardCount, E> {
                ShardCount::fixed(count).map_err(E::custom)
            }
        }
        deserializer.deserialize_any(Count)
    }
}

/// How log events look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// Human where standard error is a terminal, JSON otherwise.
    #[default]
    Auto,
    /// One line for people.
    Human,
    /// One JSON object per line.
    Json,
}

impl LogFormat {
    /// The name in the configuration.
    pub const fn as_str(self) -> &'static str {
        match self {
            LogFormat::Auto => "auto",
            LogFormat::Human => "human",
            LogFormat::Json => "json",
        }
    }
}

impl FromStr for LogFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<LogFormat, String> {
        [LogFormat::Auto, LogFormat::Human, LogFormat::Json]
            .into_iter()
            .find(|format| format.as_str() == text)
            .ok_or_else(|| {
                format!("{text:?} is no log format: use \"auto\", \"human\" or \"json\"")
            })
    }
}

/// Which log events are written: a level, or levels by module as in `info,shardgate::control=debug`.
#[derive(Clone, Debug)]
pub struct LogLevels {
    text: String,
    targets: Targets,
}

impl LogLevels {
    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// As a filter for `tracing`.
    pub fn targets(&self) -> &Targets {
        &self.targets
    }
}

/// The engine of the control log tells each of its steps. Who wants them names it.
fn quiet_engine(text: &str, targets: Targets) -> Targets {
    const ENGINE: &str = "openraft";
    let level = targets.default_level().unwrap_or(LevelFilter::OFF);
    match text.contains(ENGINE) {
        true => targets,
        false => targets.with_target(ENGINE, level.min(LevelFilter::WARN)),
    }
}

// The filter follows from the text.
impl PartialEq for LogLevels {
    fn eq(&self, other: &LogLevels) -> bool {
        self.text == other.text
    }
}

impl Eq for LogLevels {}

impl Default for LogLevels {
    fn default() -> LogLevels {
        let targets = quiet_engine("info", Targets::new().with_default(tracing::Level::INFO));
        LogLevels { text: "info".to_owned(), targets }
    }
}

impl FromStr for LogLevels {
    type Err = String;

    fn from_str(text: &str) -> Result<LogLevels, String> {
        // `Targets` takes a word that is no level for a module's name and would then
        // log nothing but that module; a typing error must not silence the log.
        let is_sound = text.split(',').all(|part| {
            let level = part.rsplit('=').next().unwrap_or_default();
            level.parse::<LevelFilter>().is_ok()
        });
        let targets = text.parse::<Targets>().ok().filter(|_| is_sound && !text.is_empty());
        match targets {
            Some(targets) => {
                Ok(LogLevels { text: text.to_owned(), targets: quiet_engine(text, targets) })
            }
            None => Err(format!(
                "{text:?} is no log level: use error, warn, info, debug, trace or off, \
                 or levels by module such as \"info,shardgate::control=debug\""
            )),
        }
    }
}

/// Serialises as text and parses from text, by `as_str` and `FromStr`.
macro_rules! text_in_toml {
    ($type:ty, $what:literal) => {
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<$type, D::Error> {
                struct Text;
                impl Visitor<'_> for Text {
                    type Value = $type;
                    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                        formatter.write_str($what)
                    }
                    fn visit_str<E: de::Error>(self, text: &str) -> Result<$type, E> {
                        text.parse().map_err(E::custom)
                    }
                }
                deserializer.deserialize_str(Text)
            }
        }
    };
}

text_in_toml!(NodeName, "a node name in quotes");
text_in_toml!(LogFormat, "one of \"auto\", \"human\", \"json\"");
text_in_toml!(LogLevels, "a log level in quotes, such as \"info\"");

/// Parses `ADDRESS:PORT`, and `localhost:PORT` as 127.0.0.1.
pub(crate) fn parse_address(text: &str) -> Result<SocketAddr, String> {
    let numeric = match text.strip_prefix("localhost:") {
        Some(port) => format!("127.0.0.1:{port}"),
        None => text.to_owned(),
    };
    numeric.parse().map_err(|_| {
        format!(
            "{text:?} is no address: write IP:PORT, such as \"127.0.0.1:8080\", \
             \"0.0.0.0:8080\" or \"[::1]:8080\""
        )
    })
}

struct Addresses {
    many: bool,
}

impl<'de> Visitor<'de> for Addresses {
    type Value = Vec<SocketAddr>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(if self.many {
            "an address such as \"127.0.0.1:8080\", or a list of them"
        } else {
            "an address such as \"127.0.0.1:9090\""
        })
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Vec<SocketAddr>, E> {
        parse_address(text).map(|address| vec![address]).map_err(E::custom)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Vec<SocketAddr>, A::Error> {
        if !self.many {
            return Err(de::Error::invalid_type(de::Unexpected::Seq, &self));
        }
        let mut addresses = Vec::new();
        while let Some(text) = items.next_element::<String>()? {
            addresses.push(parse_address(&text).map_err(de::Error::custom)?);
        }
        Ok(addresses)
    }
}

/// A text, or a list of texts.
pub(crate) fn one_or_more_addresses<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<SocketAddr>, D::Error> {
    deserializer.deserialize_any(Addresses { many: true })
}

/// One text.
pub(crate) fn address<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SocketAddr, D::Error> {
    let addresses = deserializer.deserialize_any(Addresses { many: false })?;
    addresses.first().copied().ok_or_else(|| de::Error::custom("an address is missing"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostnames_become_node_names() {
        for (hostname, name) in [
            ("db-7.example.com\n", "db-7"),
            ("My_Laptop", "my-laptop"),
            ("a-very-long-machine-name", "a-very-long-mach"),
            ("abcdefghijklmno-pq", "abcdefghijklmno"),
            ("", "local"),
            ("(none)", "none"),
            ("---", "local"),
            ("größe", "gr--e"),
        ] {
            let made = NodeName::from_hostname(hostname);
            assert_eq!(made.as_str(), name, "from {hostname:?}");
            assert_eq!(made.as_str().parse(), Ok(made.clone()), "its own name must parse");
        }
    }

    #[test]
    fn node_names_are_bounded() {
        assert!("gw-1".parse::<NodeName>().is_ok());
        assert!("".parse::<NodeName>().is_err());
        assert!("a.b".parse::<NodeName>().is_err());
        assert!("Upper".parse::<NodeName>().is_err());
        assert!("a".repeat(17).parse::<NodeName>().is_err());
    }

    #[test]
    fn shard_counts() {
        assert_eq!("auto".parse(), Ok(ShardCount::Auto));
        assert_eq!("1024".parse(), ShardCount::fixed(1024));
        for bad in ["0", "1025", "-1", "two", ""] {
            assert!(bad.parse::<ShardCount>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_mistyped_level_is_refused() {
        for good in ["info", "warn,shardgate=trace", "off", "INFO"] {
            assert!(good.parse::<LogLevels>().is_ok(), "{good}");
        }
        for bad in ["inof", "", "info,shardgate=lots", "shardgate"] {
            assert!(bad.parse::<LogLevels>().is_err(), "{bad}");
        }
    }

    #[test]
    fn addresses_name_what_is_wrong() {
        assert_eq!(parse_address("localhost:80"), Ok(SocketAddr::from(([127, 0, 0, 1], 80))));
        assert!(parse_address("[::1]:80").is_ok());
        let message = parse_address("8080").unwrap_err();
        assert!(message.contains("\"8080\"") && message.contains("IP:PORT"), "{message}");
    }
}
