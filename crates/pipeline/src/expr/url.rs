//! Puts values into a URL so that they cannot change its structure.

use afterload_core::percent::percent_encode;

/// Why a value cannot be a part of a URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum UrlFault {
    /// It stands where the scheme or the host stands.
    Origin,
    /// It makes a segment of the path `.` or `..`.
    DotSegment,
}

impl UrlFault {
    pub(super) fn message(self) -> &'static str {
        match self {
            Self::Origin => "it stands where the URL names its scheme or host",
            Self::DotSegment => "it makes a part of the path `.` or `..`, which leads to another path",
        }
    }

    pub(super) fn hint(self) -> &'static str {
        match self {
            Self::Origin => "write `| safe_url` after a value that you trust, or let one expression give the whole URL",
            Self::DotSegment => "use another value, or send it in `query`",
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum UrlPlace {
    /// Scheme, host and port.
    Origin,
    Path,
    /// The query or the fragment.
    Query,
}

/// Joins the parts of a URL.
pub(super) struct UrlBuilder {
    text: String,
    place: UrlPlace,
    /// Where the host begins.
    host_start: Option<usize>,
    segment_start: usize,
    /// True if a value is a part of this segment of the path.
    segment_has_value: bool,
}

impl UrlBuilder {
    pub(super) fn new() -> Self {
        Self {
            text: String::new(),
            place: UrlPlace::Origin,
            host_start: None,
            segment_start: 0,
            segment_has_value: false,
        }
    }

    /// Appends text of the author.
    pub(super) fn push_literal(&mut self, literal: &str) -> Result<(), UrlFault> {
        // URL parsers ignore these characters, so they must not hide a `..`.
        for character in literal.chars().filter(|character| !matches!(character, '\t' | '\n' | '\r')) {
            let is_slash = matches!(character, '/' | '\\');
            let starts_query = matches!(character, '?' | '#');
            match self.place {
                UrlPlace::Origin
                    if (is_slash || starts_query) && self.host_start.is_some_and(|start| self.text.len() > start) =>
                {
                    self.place = if is_slash { UrlPlace::Path } else { UrlPlace::Query };
                    self.segment_start = self.text.len() + 1;
                }
                UrlPlace::Path if is_slash || starts_query => {
                    self.check_segment()?;
                    self.segment_start = self.text.len() + 1;
                    self.segment_has_value = false;
                    if starts_query {
                        self.place = UrlPlace::Query;
                    }
                }
                _ => {}
            }
            self.text.push(character);
            if self.host_start.is_none() && self.text.ends_with("://") {
                self.host_start = Some(self.text.len());
            }
        }
        Ok(())
    }

    /// Appends a value, encoded.
    pub(super) fn push_value(&mut self, value: &str) -> Result<(), UrlFault> {
        if self.place == UrlPlace::Origin {
            return Err(UrlFault::Origin);
        }
        self.segment_has_value = true;
        self.text.push_str(&percent_encode(value));
        Ok(())
    }

    pub(super) fn finish(self) -> Result<String, UrlFault> {
        if self.place == UrlPlace::Path {
            self.check_segment()?;
        }
        Ok(self.text)
    }

    /// Encoding does not help against `..`: parsers treat `%2E` as a dot.
    fn check_segment(&self) -> Result<(), UrlFault> {
        let segment = &self.text[self.segment_start..];
        let is_short = self.segment_has_value && segment.len() <= "%2e%2e".len();
        match is_short && matches!(segment.to_lowercase().replace("%2e", ".").as_str(), "." | "..") {
            true => Err(UrlFault::DotSegment),
            false => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Builds a URL from parts; a part that begins with `=` is a value.
    fn build(parts: &[&str]) -> Result<String, UrlFault> {
        let mut url = UrlBuilder::new();
        for part in parts {
            match part.strip_prefix('=') {
                Some(value) => url.push_value(value)?,
                None => url.push_literal(part)?,
            }
        }
        url.finish()
    }

    #[test]
    fn values_are_encoded_and_literals_stay() {
        for (parts, url) in [
            (&["https://a.example/u/", "=../../admin"][..], "https://a.example/u/..%2F..%2Fadmin"),
            (&["https://a.example/u/", "=a?b#c%d e", "/x?y=1%20"], "https://a.example/u/a%3Fb%23c%25d%20e/x?y=1%20"),
            (
                &["https://a.example?q=", "=a&b=c+d", "&x=", "=..", "#", "=/"],
                "https://a.example?q=a%26b%3Dc%2Bd&x=..#%2F",
            ),
            (&["https://a.example/../x/", "=...", "/", "=a..b"], "https://a.example/../x/.../a..b"),
            (&["https://a.example/", "=\\..\\x\n"], "https://a.example/%5C..%5Cx%0A"),
        ] {
            assert_eq!(build(parts).as_deref(), Ok(url), "{parts:?}");
        }
    }

    #[test]
    fn values_cannot_leave_their_segment() {
        for parts in [
            &["https://a.example/u/", "=.."][..],
            &["https://a.example/u/", "=.", "/x"],
            &["https://a.example/u/", "=.", "=.", "?x"],
            &["https://a.example/u/.", "=.", "\\x"],
            &["https://a.example/u/%2e", "=.", "#x"],
            &["https://a.example/u/.\t", "=.", "\n/x"],
        ] {
            assert_eq!(build(parts), Err(UrlFault::DotSegment), "{parts:?}");
        }
    }

    #[test]
    fn values_cannot_name_scheme_or_host() {
        for parts in [
            &["=https://a.example", "/x"][..],
            &["https://", "=a.example", "/x"],
            &["https://a", "=.example", "/x"],
            &["https://a.example", "=@b.example"],
            &["https:///", "=b.example"],
            &["https:a.example/", "=b"],
            &["=https", "://a.example/"],
        ] {
            assert_eq!(build(parts), Err(UrlFault::Origin), "{parts:?}");
        }
    }
}
