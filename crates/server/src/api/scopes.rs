//! The scopes of API keys.

use std::fmt;
use std::str::FromStr;

use crate::codes;
use afterload_core::error::{Error, Result};

/// A permission of a key. Without a pipeline name it covers all pipelines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ApiKeyScope {
    /// Everything.
    Admin,
    /// Read runs, their files and their pipelines.
    RunsRead(Option<String>),
    /// Start runs.
    RunsWrite(Option<String>),
    /// Publish events, such as new objects.
    EventsWrite(Option<String>),
    /// Read metrics.
    MetricsRead,
    /// Report mails that came back.
    BouncesWrite,
    /// Read which addresses receive no mails.
    SuppressionsRead,
    /// Add and remove addresses that receive no mails.
    SuppressionsWrite,
}

impl FromStr for ApiKeyScope {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (kind, name) = match text.match_indices(':').nth(1) {
            Some((at, _)) => (&text[..at], Some(&text[at + 1..])),
            None => (text, None),
        };
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        let name_fits = name.is_none_or(|name| !name.is_empty() && name.len() <= 63 && name.bytes().all(allowed));
        let name = name.map(str::to_owned);
        match kind {
            "admin" if name.is_none() => Ok(Self::Admin),
            "runs:read" if name_fits => Ok(Self::RunsRead(name)),
            "runs:write" if name_fits => Ok(Self::RunsWrite(name)),
            "events:write" if name_fits => Ok(Self::EventsWrite(name)),
            "metrics:read" if name.is_none() => Ok(Self::MetricsRead),
            "bounces:write" if name.is_none() => Ok(Self::BouncesWrite),
            "suppressions:read" if name.is_none() => Ok(Self::SuppressionsRead),
            "suppressions:write" if name.is_none() => Ok(Self::SuppressionsWrite),
            _ => Err(Error::new(codes::SCOPE_INVALID, format!("`{text}` is not a scope"))
                .with_hint("scopes are `admin`, `runs:read`, `runs:read:PIPELINE`, `runs:write`, `runs:write:PIPELINE`, `events:write`, `events:write:NAME`, `metrics:read`, `bounces:write`, `suppressions:read` and `suppressions:write`")),
        }
    }
}

impl fmt::Display for ApiKeyScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, name) = match self {
            Self::Admin => ("admin", &None),
            Self::RunsRead(name) => ("runs:read", name),
            Self::RunsWrite(name) => ("runs:write", name),
            Self::EventsWrite(name) => ("events:write", name),
            Self::MetricsRead => ("metrics:read", &None),
            Self::BouncesWrite => ("bounces:write", &None),
            Self::SuppressionsRead => ("suppressions:read", &None),
            Self::SuppressionsWrite => ("suppressions:write", &None),
        };
        f.write_str(kind)?;
        name.as_ref().map_or(Ok(()), |name| write!(f, ":{name}"))
    }
}

/// The error for a key without `scope`.
pub(super) fn missing_scope(scope: &ApiKeyScope) -> Error {
    Error::new(codes::SCOPE_MISSING, format!("the API key lacks the scope `{scope}`"))
        .with_hint(format!("make one with `afterload key new --scope {scope}`"))
        .with_details(serde_json::json!({ "scope": scope.to_string() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_parse_and_display_the_same() {
        for text in [
            "admin",
            "runs:read",
            "runs:read:a-b",
            "runs:write:a",
            "runs:write",
            "events:write",
            "events:write:user.signed_in",
            "metrics:read",
            "bounces:write",
            "suppressions:read",
            "suppressions:write",
        ] {
            assert_eq!(text.parse::<ApiKeyScope>().unwrap().to_string(), text);
        }
        for text in [
            "",
            "admin:x",
            "runs",
            "runs:read:",
            "runs:read:a b",
            "runs:delete",
            "Admin",
            "runs:read:a:b",
            "metrics:read:a",
            "bounces:read",
            "suppressions:write:a",
        ] {
            assert_eq!(text.parse::<ApiKeyScope>().unwrap_err().code(), codes::SCOPE_INVALID, "`{text}`");
        }
    }
}
