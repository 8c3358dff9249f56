//! Triggers as written in the file.

use std::collections::BTreeMap;
use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use afterload_core::units::HumanDuration;

/// What starts a pipeline.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Trigger")]
pub struct TriggerAst {
    /// What kind of happening it is.
    #[serde(rename = "type")]
    pub kind: TriggerType,
    /// `s3`: the bucket whose new objects start a run.
    #[serde(default)]
    pub bucket: Option<String>,
    /// `s3`: only keys that start like this.
    #[serde(default)]
    pub prefix: Option<String>,
    /// `s3`: only keys that end like this, or like one of these; `.jpg` fits `A.JPG` too.
    #[serde(default)]
    pub suffix: Option<KeySuffix>,
    /// `s3`: also looks itself for new objects, this often; for stores that tell nobody of them.
    #[serde(default)]
    pub poll: Option<HumanDuration>,
    /// `cron`: minute, hour, day, month, weekday.
    #[serde(default)]
    pub schedule: Option<String>,
    /// `cron`: the time zone of the schedule, such as `Europe/Paris`; default `UTC`.
    #[serde(default)]
    pub timezone: Option<String>,
    /// `cron`: which of the ticks missed while nothing was running are made up for; default `last`.
    #[serde(default)]
    pub catch_up: Option<CatchUp>,
    /// `event`: the name of the event.
    #[serde(default)]
    pub name: Option<String>,
    /// `s3`, `event`: one run for a burst, once no more events have come for this long; `event.items` lists all of them.
    #[serde(default)]
    pub debounce: Option<HumanDuration>,
    /// `debounce`: how long the first event of a burst waits at most; default ten times `debounce`.
    #[serde(default)]
    pub max_wait: Option<HumanDuration>,
    /// `s3`, `event`: one run for several events; `event.items` lists all of them.
    #[serde(default)]
    pub batch: Option<BatchAst>,
    /// The params of the run, from `event`. Without it an `s3` trigger fills the only `file` param, and one with `debounce` or `batch`
    /// the only list of files.
    #[serde(default)]
    pub with: BTreeMap<String, serde_json::Value>,
}

/// When the events of a trigger start a run together: at whichever comes first.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BatchAst {
    /// How many events.
    #[schemars(range(min = 1, max = 1000))]
    pub size: u32,
    /// How long after the first event.
    pub within: HumanDuration,
}

/// The endings of the keys that start a run. ASCII letters fit in upper and lower case.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "expected text or a list of texts, such as `.jpg` or `[.jpg, .png]`")]
pub enum KeySuffix {
    /// One ending. The empty one fits every key.
    One(String),
    /// Several endings, of which one must fit.
    AnyOf(Vec<String>),
}

impl Default for KeySuffix {
    fn default() -> Self {
        Self::One(String::new())
    }
}

impl KeySuffix {
    /// The endings, of which one must fit.
    pub fn alternatives(&self) -> &[String] {
        match self {
            Self::One(suffix) => std::slice::from_ref(suffix),
            Self::AnyOf(suffixes) => suffixes,
        }
    }

    /// True if the key has one of the endings.
    pub fn matches_key(&self, key: &str) -> bool {
        self.alternatives().iter().any(|suffix| ends_with_ignore_case(key, suffix))
    }
}

impl fmt::Display for KeySuffix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::One(suffix) => f.write_str(suffix),
            Self::AnyOf(suffixes) => write!(f, "{{{}}}", suffixes.join(",")),
        }
    }
}

/// Like `ends_with`, but ASCII letters fit in upper and lower case: cameras write `IMG.JPG`.
pub fn ends_with_ignore_case(text: &str, suffix: &str) -> bool {
    let start = text.len().checked_sub(suffix.len());
    start.is_some_and(|start| text.as_bytes()[start..].eq_ignore_ascii_case(suffix.as_bytes()))
}

/// What kind of happening starts a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TriggerType {
    /// An object has been created in a bucket.
    S3,
    /// A moment of a schedule.
    Cron,
    /// An event of the application.
    Event,
}

/// Which missed ticks are made up for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CatchUp {
    /// None of them.
    None,
    /// The last one.
    #[default]
    Last,
    /// Each of them.
    All,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suffix_ignores_ascii_case_and_may_be_a_list() {
        for (suffix, key, expected) in [
            (r#"".jpg""#, "in/IMG.JPG", true),
            (r#"".JPG""#, "in/img.jpg", true),
            (r#"".jpg""#, "in/img.jpeg", false),
            (r#"".jpg""#, "jpg", false),
            (r#"["jpg", ".Png"]"#, "a.pNG", true),
            (r#"[".jpg", ".png"]"#, "a.gif", false),
            (r#""""#, "any", true),
            (r#""ä.csv""#, "Ä.csv", false),
            (r#""é""#, "\u{e9}", true),
            (r#""©""#, "é", false),
        ] {
            let parsed: KeySuffix = serde_json::from_str(suffix).unwrap();
            assert_eq!(parsed.matches_key(key), expected, "{suffix} {key}");
            assert_eq!(
                serde_json::to_value(&parsed).unwrap(),
                serde_json::from_str::<serde_json::Value>(suffix).unwrap()
            );
        }
        let error = serde_json::from_str::<KeySuffix>("5").unwrap_err();
        assert!(error.to_string().contains("expected text or a list of texts"), "{error}");
    }
}
