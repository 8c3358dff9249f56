//! The logs of a process, on standard error.

use std::fmt;
use std::io::{IsTerminal, Write};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format::{DefaultFields, Writer};

use crate::codes;
use afterload_core::error::{Error, Result};
use afterload_core::redactor::Redactor;

/// The log filter without `AFTERLOAD_LOG`.
pub(super) const DEFAULT_LOG_FILTER: &str = "info,apalis=warn,apalis_core=warn,notify=warn";
/// s3s logs each refused request twice as an error, and headers with signatures. What it refuses is logged by us. A
/// filter that names it, such as `s3s=debug`, comes later and wins.
const ALWAYS_OFF: &str = "s3s=off";

/// Logs to standard error. `AFTERLOAD_LOG` filters like `RUST_LOG`. `AFTERLOAD_LOG_FORMAT` is `text` or `json`; the
/// default is text on a terminal and JSON elsewhere.
///
/// The redactor removes secrets that libraries log.
pub(super) fn init_logs(default: &str, redactor: Redactor) -> Result<()> {
    let chosen = std::env::var("AFTERLOAD_LOG").ok().and_then(|filter| parse_filter(&filter));
    let filter = chosen.or_else(|| parse_filter(default)).unwrap_or_default();
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(move || RedactedStderr(redactor.clone()));
    let text = match std::env::var("AFTERLOAD_LOG_FORMAT").as_deref().unwrap_or_default() {
        "" => std::io::stderr().is_terminal(),
        "text" => true,
        "json" => false,
        _ => {
            return Err(Error::new(codes::LOG_FORMAT_INVALID, "`AFTERLOAD_LOG_FORMAT` must be `text` or `json`"));
        }
    };
    let started = match text {
        true => logs.compact().fmt_fields(EscapedFields::default()).try_init(),
        false => logs.json().flatten_event(true).try_init(),
    };
    drop(started);
    Ok(())
}

/// Standard error without secrets. The log writes each record as a whole.
struct RedactedStderr(Redactor);

impl Write for RedactedStderr {
    fn write(&mut self, record: &[u8]) -> std::io::Result<usize> {
        let text = self.0.redact_text(&String::from_utf8_lossy(record));
        std::io::stderr().write_all(text.as_bytes())?;
        Ok(record.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        std::io::stderr().flush()
    }
}

fn parse_filter(filter: &str) -> Option<EnvFilter> {
    EnvFilter::try_new(format!("{ALWAYS_OFF},{filter}")).ok()
}

/// Formats the message and fields of a text log on one line. What a request brings may hold line ends and control
/// characters, and must neither forge a line nor reach the terminal.
#[derive(Default)]
struct EscapedFields(DefaultFields);

impl<'writer> FormatFields<'writer> for EscapedFields {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'writer>, fields: R) -> fmt::Result {
        let mut text = String::new();
        self.0.format_fields(Writer::new(&mut text), fields)?;
        write_escaped(writer, &text)
    }
}

fn write_escaped(mut to: impl fmt::Write, text: &str) -> fmt::Result {
    for character in text.chars() {
        match is_unsafe_in_logs(character) {
            true => write!(to, "{}", character.escape_default())?,
            false => to.write_char(character)?,
        }
    }
    Ok(())
}

/// Control characters, line separators, and the characters that change the direction of text.
fn is_unsafe_in_logs(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{061c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
        )
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Captured(Arc<Mutex<Vec<u8>>>);

    impl Write for Captured {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn values_cannot_forge_lines_or_reach_the_terminal() {
        let captured = Captured::default();
        let writer = captured.clone();
        let logs = tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_ansi(false);
        let logs = logs.compact().fmt_fields(EscapedFields::default()).with_writer(move || writer.clone()).finish();
        let evil = "a\nERROR forged\r\u{1b}[2J\u{0}\u{9b}\u{2028}\u{202e}\u{7f}ü";
        tracing::subscriber::with_default(logs, || {
            let span = tracing::info_span!("request", path = %evil);
            let _entered = span.enter();
            tracing::info!(shown = %evil, debug = ?evil, plain = evil, "message {evil}");
            span.record("path", evil);
            tracing::info!("again");
        });
        let text = String::from_utf8(captured.0.lock().unwrap().clone()).unwrap();
        assert_eq!(text.lines().count(), 2, "{text}");
        assert!(text.chars().all(|character| character == '\n' || !is_unsafe_in_logs(character)), "{text:?}");
        assert!(text.contains("shown=a\\nERROR forged\\r"), "{text}");
        assert!(text.contains('ü'), "{text}");
    }

    #[test]
    fn s3s_is_silent_unless_it_is_named() {
        let shown = |filter: &str| parse_filter(filter).unwrap().to_string();
        for filter in [DEFAULT_LOG_FILTER, "debug", "trace,afterload=info"] {
            assert!(shown(filter).contains("s3s=off"), "{}", shown(filter));
        }
        assert!(!shown("info,s3s=debug").contains("s3s=off"));
    }
}
