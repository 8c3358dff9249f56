//! The filter of the list of runs: one line of text, or the same as fields.

use std::time::Duration;

use ulid::Ulid;

use crate::forms::{field, parse_form, to_query};
use afterload_core::clock::{UnixMillis, parse_rfc3339};
use afterload_core::text::shorten_text;
use afterload_core::units::HumanDuration;
use afterload_server::api::{Caller, first_id_at};
use afterload_state::{RunFilter, RunStatus};

/// The number of runs on a page.
pub(crate) const PAGE_SIZE: u32 = 50;
/// The characters of an id.
const ID_CHARS: usize = 26;
/// How much of a wrong word a message repeats.
const MAX_VALUE_CHARS: usize = 60;

/// What the address of the page asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RunQuery {
    pub pipeline: String,
    pub status: String,
    pub code: String,
    pub since: String,
    pub id: String,
    /// Only runs before this one: the page after another page.
    pub before: String,
}

impl RunQuery {
    /// Reads the query of an address. Words of the line win over fields.
    ///
    /// # Errors
    /// A sentence about the word that is not understood.
    pub(crate) fn parse(query: &str) -> Result<Self, String> {
        let form = parse_form(query.as_bytes());
        let own = |name: &str| field(&form, name).trim().to_owned();
        let mut found = Self {
            pipeline: own("pipeline"),
            status: own("status"),
            code: own("code"),
            since: own("since"),
            id: own("id"),
            before: own("before"),
        };
        for word in field(&form, "q").split_whitespace() {
            match word.split_once(':') {
                Some(("pipeline", value)) => found.pipeline = value.to_owned(),
                Some(("status", value)) => found.status = value.to_owned(),
                Some(("code", value)) => found.code = value.to_owned(),
                Some(("since", value)) => found.since = value.to_owned(),
                Some(("id", value)) => found.id = value.to_owned(),
                Some((name, _)) => return Err(unknown_word(&format!("{name}:"))),
                None if is_id_part(word) => found.id = word.to_owned(),
                None => found.pipeline = word.to_owned(),
            }
        }
        Ok(found)
    }

    /// The filter as one line.
    pub(crate) fn line(&self) -> String {
        let fields = self.named();
        let words = fields.iter().filter(|(_, value)| !value.is_empty()).map(|(name, value)| format!("{name}:{value}"));
        words.collect::<Vec<_>>().join(" ")
    }

    /// The filter as the query of an address, without the place in the list.
    pub(crate) fn to_query(&self) -> String {
        to_query(&self.named())
    }

    fn named(&self) -> [(&'static str, &str); 5] {
        [
            ("pipeline", self.pipeline.as_str()),
            ("status", self.status.as_str()),
            ("code", self.code.as_str()),
            ("since", self.since.as_str()),
            ("id", self.id.as_str()),
        ]
    }

    /// The filter for the database, as far as this caller may read.
    ///
    /// # Errors
    /// A sentence about the value that is not understood.
    pub(crate) fn to_filter(&self, caller: &Caller, now: UnixMillis) -> Result<RunFilter, String> {
        let given = |text: &String| (!text.is_empty()).then(|| text.clone());
        let pipelines = match given(&self.pipeline) {
            Some(name) if !is_word(&name) => {
                return Err(wrong_value(&name, "the name of a pipeline", "names are lower case"));
            }
            Some(name) if caller.can_read(&name) => Some(vec![name]),
            // Who may not read it sees no runs of it.
            Some(_) => Some(Vec::new()),
            None => caller.readable_pipelines(),
        };
        let status = given(&self.status).map(|text| {
            let hint = "expected `queued`, `running`, `succeeded`, `failed` or `cancelled`";
            RunStatus::from_name(&text).ok_or_else(|| wrong_value(&text, "the status of a run", hint))
        });
        if !is_word(&self.code) {
            return Err(wrong_value(&self.code, "an error code", "codes look like `run_not_found`"));
        }
        let since = given(&self.since).map(|text| parse_since(&text, now)).transpose()?.map(first_id_at);
        let (from, to) = self.id_range()?;
        let before = given(&self.before).map(|text| {
            let id = Ulid::from_string(&text)
                .map_err(|_| wrong_value(&text, "a place in the list", "use the links below it"));
            id.map(|id| id.to_string())
        });
        Ok(RunFilter {
            pipelines,
            status: status.transpose()?,
            error_code: given(&self.code),
            from_id: since.max(from),
            to_id: to,
            before_id: before.transpose()?,
            limit: PAGE_SIZE + 1,
        })
    }

    /// The first and the last id that begin with the given characters.
    fn id_range(&self) -> Result<(Option<String>, Option<String>), String> {
        if self.id.is_empty() {
            return Ok((None, None));
        }
        let start = self.id.to_ascii_uppercase();
        let filled =
            |fill: &str| Ulid::from_string(&format!("{start}{}", fill.repeat(ID_CHARS.saturating_sub(start.len()))));
        match (filled("0"), filled("Z")) {
            (Ok(first), Ok(last)) => Ok((Some(first.to_string()), Some(last.to_string()))),
            _ => Err(wrong_value(
                &self.id,
                "an id",
                "ids look like `01J9Z3NDEKTSV4RRFFQ69G5FAV`; the first characters are enough",
            )),
        }
    }
}

fn unknown_word(word: &str) -> String {
    let word = shorten_text(word, MAX_VALUE_CHARS);
    format!("`{word}` is not understood. Use `pipeline:`, `status:`, `code:`, `since:` and `id:`.")
}

fn wrong_value(value: &str, what: &str, hint: &str) -> String {
    format!("`{}` is not {what}: {hint}.", shorten_text(value, MAX_VALUE_CHARS))
}

fn is_word(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_".contains(&byte))
}

/// True for what can only be the beginning of an id: long enough, and with a digit first as all ids of this century.
fn is_id_part(word: &str) -> bool {
    word.len() >= 8 && word.starts_with("01") && word.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

/// A time, a day, or how long ago: `2026-01-31T08:00:00Z`, `2026-01-31`, `24h`.
fn parse_since(text: &str, now: UnixMillis) -> Result<UnixMillis, String> {
    if let Ok(HumanDuration(ago)) = text.parse::<HumanDuration>() {
        return Ok(now.saturating_sub(millis(ago)));
    }
    let time = parse_rfc3339(text).or_else(|| parse_rfc3339(&format!("{text}T00:00:00Z")));
    time.ok_or_else(|| wrong_value(text, "a time", "write `24h`, `7d`, `2030-01-31` or `2030-01-31T08:00:00Z`"))
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixMillis = 1_800_000_000_000;

    #[test]
    fn the_line_and_the_fields_say_the_same() {
        let line = RunQuery::parse("q=pipeline%3Aa-b+status:failed+code:x_y+since:24h+id:01J").unwrap();
        let fields = RunQuery::parse("pipeline=a-b&status=failed&code=x_y&since=24h&id=01J").unwrap();
        assert_eq!(line, fields);
        assert_eq!(line.line(), "pipeline:a-b status:failed code:x_y since:24h id:01J");
        assert_eq!(RunQuery::parse(&line.to_query()).unwrap(), line);
        assert_eq!(RunQuery::parse("q=contacts").unwrap().pipeline, "contacts");
        assert_eq!(RunQuery::parse("q=01J9Z3NDEK").unwrap().id, "01J9Z3NDEK");
        let unknown = RunQuery::parse("q=color:red").unwrap_err();
        assert!(unknown.starts_with("`color:` is not understood"), "{unknown}");
    }

    #[test]
    fn times_and_ids_become_ranges() {
        let day = 24 * 60 * 60 * 1000;
        assert_eq!(parse_since("24h", NOW), Ok(NOW - day));
        assert_eq!(parse_since("2027-01-15", NOW), Ok(NOW - 8 * 60 * 60 * 1000));
        assert!(parse_since("yesterday", NOW).unwrap_err().contains("`24h`"));
        assert!(parse_since(&"9".repeat(10_000), NOW).unwrap_err().len() < 300);
        let range = |id: &str| RunQuery { id: id.into(), ..RunQuery::default() }.id_range();
        let (first, last) = range("01j9").unwrap();
        assert_eq!(
            (first.unwrap(), last.unwrap()),
            (format!("01J9{}", "0".repeat(22)), format!("01J9{}", "Z".repeat(22)))
        );
        for id in ["01!", "x'--", &"0".repeat(27)] {
            assert!(range(id).is_err(), "{id}");
        }
    }
}
