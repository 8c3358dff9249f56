//! What a definition shows of what its runs do that may start other runs.

use super::ast::{KeySuffix, ends_with_ignore_case};
use afterload_spanned_yaml::SourceSpan;

/// What each successful run of a pipeline does.
#[derive(Clone, Debug)]
pub struct CertainEffect {
    /// What it does.
    pub effect: RunEffect,
    /// Where the definition says so: at the key of an output, or at a URL.
    pub span: SourceSpan,
}

/// What may start other runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RunEffect {
    /// Objects are written.
    WriteObjects {
        /// The bucket.
        bucket: String,
        /// Their keys.
        key: KeyShape,
    },
    /// An event with this name is published, by a call of the API.
    PublishEvent(String),
    /// A run of this pipeline is started, by a call of the API.
    StartRun(String),
}

impl RunEffect {
    /// What a `POST` request to this URL does, if it goes to the API of this service.
    pub fn from_call(url: &str, public_url: &str) -> Option<Self> {
        let path = url.strip_prefix(public_url.trim_end_matches('/'))?.split(['?', '#']).next()?;
        match path.split('/').collect::<Vec<_>>()[..] {
            ["", "v1", "events", name] => Some(Self::PublishEvent(name.to_owned())),
            ["", "v1", "pipelines", name, "runs"] => Some(Self::StartRun(name.to_owned())),
            _ => None,
        }
    }
}

/// What is known of a key before its expressions have values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyShape {
    /// The text before the first expression; the whole key if there is none.
    head: String,
    /// The text after the last expression; `None`: the key has no expression.
    tail: Option<String>,
}

impl KeyShape {
    /// Splits a template at its expressions.
    pub fn from_template(template: &str) -> Self {
        match template.split_once("${{") {
            None => Self { head: template.to_owned(), tail: None },
            Some((head, rest)) => {
                let tail = rest.rsplit_once("}}").map_or("", |(_, tail)| tail);
                Self { head: head.to_owned(), tail: Some(tail.to_owned()) }
            }
        }
    }

    /// True if some values of the expressions give a key with this prefix and one of these endings.
    pub fn may_match(&self, prefix: &str, suffix: &KeySuffix) -> bool {
        let Some(tail) = &self.tail else { return self.always_matches(prefix, suffix) };
        let starts = self.head.starts_with(prefix) || prefix.starts_with(&self.head);
        let ends = |suffix: &String| ends_with_ignore_case(tail, suffix) || ends_with_ignore_case(suffix, tail);
        starts && suffix.alternatives().iter().any(ends)
    }

    /// True if all values of the expressions give a key with this prefix and one of these endings.
    pub fn always_matches(&self, prefix: &str, suffix: &KeySuffix) -> bool {
        self.head.starts_with(prefix) && suffix.matches_key(self.tail.as_ref().unwrap_or(&self.head))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_of_the_own_api_start_runs() {
        let effect = |url: &str| RunEffect::from_call(url, "https://after.example/load/");
        let event = RunEffect::PublishEvent("order.done".into());
        assert_eq!(effect("https://after.example/load/v1/events/order.done"), Some(event.clone()));
        assert_eq!(effect("https://after.example/load/v1/events/order.done?a=b"), Some(event));
        let run = RunEffect::StartRun("orders".into());
        assert_eq!(effect("https://after.example/load/v1/pipelines/orders/runs"), Some(run));
        for other in ["/v1/events", "/v1/events/a/b", "/v1/runs", "er/v1/events/a", ""] {
            assert_eq!(effect(&format!("https://after.example/load{other}")), None, "{other}");
        }
        assert_eq!(effect("https://other.example/v1/events/a"), None);
    }

    #[test]
    fn keys_match_as_far_as_their_literal_text_shows() {
        for (key, prefix, suffix, may, always) in [
            ("in/a.jpg", "in/", "", true, true),
            ("in/a.jpg", "in/", ".png", false, false),
            ("in/a.jpg", "in/", ".JPG", true, true),
            ("in/${{ run.id }}.JPG", "in/", "a.jpg", true, false),
            ("in/${{ run.id }}.jpg", "in/", ".jpg", true, true),
            ("in/${{ run.id }}.jpg", "in/", ".png", false, false),
            ("in/${{ run.id }}", "in/", ".png", true, false),
            ("in/${{ run.id }}/${{ file.name }}", "in/", "", true, true),
            ("thumbs/${{ run.id }}.jpg", "in/", "", false, false),
            ("${{ params.folder }}/a.jpg", "in/", "", true, false),
            ("i${{ params.rest }}", "in/", "", true, false),
            ("out/a", "", "", true, true),
        ] {
            let shape = KeyShape::from_template(key);
            let suffix = KeySuffix::AnyOf(vec![".never".into(), suffix.into()]);
            assert_eq!(
                (shape.may_match(prefix, &suffix), shape.always_matches(prefix, &suffix)),
                (may, always),
                "{key} {prefix}"
            );
        }
    }
}
