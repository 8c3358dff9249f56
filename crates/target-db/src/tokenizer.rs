//! Splits the SQL of users into tokens, in just enough detail to find its parameters.
//!
//! Not the tokenizer of `sqlparser`: it refuses strings that PostgreSQL accepts (`E'\303\244'`, `U&'…'` with another
//! escape), accepts a comment without an end in SQLite, and gives lines and columns instead of parts of the text.

use crate::codes;
use afterload_core::dialect::Dialect;
use afterload_core::error::{Error, Result};

/// A token of SQL. All tokens together make up the whole text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SqlToken<'a> {
    /// White space or a comment.
    Blank(&'a str),
    /// A semicolon outside of quotes and comments.
    Semicolon,
    /// `:name`, without the colon.
    Parameter(&'a str),
    /// Any other token: a word, number, string or operator.
    Other(&'a str),
}

/// Splits the text into tokens.
///
/// # Errors
/// `sql_invalid` for a quote or comment without an end, for parameters that are not written `:name`, and for names in
/// `U&"…"`, because other parsers could read a different name.
pub(super) fn tokenize_sql(text: &str, dialect: Dialect) -> Result<Vec<SqlToken<'_>>> {
    let mut scanner = SqlScanner { text, dialect, position: 0 };
    let mut found = Vec::new();
    while scanner.position < text.len() {
        found.push(scanner.next_token()?);
    }
    Ok(found)
}

struct SqlScanner<'a> {
    text: &'a str,
    dialect: Dialect,
    position: usize,
}

fn starts_word(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || byte == b'_' || byte >= 0x80
}

fn continues_word(byte: u8) -> bool {
    starts_word(byte) || byte.is_ascii_digit() || byte == b'$'
}

impl<'a> SqlScanner<'a> {
    fn next_token(&mut self) -> Result<SqlToken<'a>> {
        let (text, start) = (self.text, self.position);
        let rest = &text.as_bytes()[start..];
        let second = rest.get(1).copied().unwrap_or_default();
        let postgres = self.dialect == Dialect::Postgres;
        match rest[0] {
            b';' => {
                self.position += 1;
                return Ok(SqlToken::Semicolon);
            }
            byte if byte.is_ascii_whitespace() => {
                self.position += rest.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
                return Ok(SqlToken::Blank(&text[start..self.position]));
            }
            b'-' if second == b'-' => {
                // In PostgreSQL, a carriage return ends a comment too.
                let ends = |byte: &u8| *byte == b'\n' || postgres && *byte == b'\r';
                self.position += rest.iter().position(ends).unwrap_or(rest.len());
                return Ok(SqlToken::Blank(&text[start..self.position]));
            }
            b'/' if second == b'*' => {
                self.scan_comment()?;
                return Ok(SqlToken::Blank(&text[start..self.position]));
            }
            b':' if second == b':' => self.position += 2,
            b':' if second.is_ascii_alphabetic() || second == b'_' => {
                self.position += 1;
                self.position +=
                    rest[1..].iter().take_while(|byte| byte.is_ascii_alphanumeric() || **byte == b'_').count();
                return Ok(SqlToken::Parameter(&text[start + 1..self.position]));
            }
            b'\'' => self.scan_quoted(b'\'', false)?,
            b'"' => self.scan_quoted(b'"', false)?,
            b'`' if !postgres => self.scan_quoted(b'`', false)?,
            b'[' if !postgres => self.scan_quoted(b']', false)?,
            b'$' if postgres && !second.is_ascii_digit() => self.scan_dollar_quoted()?,
            b'$' | b'?' | b'@' if !postgres => return Err(self.unsupported_parameter_error()),
            b'$' => return Err(self.unsupported_parameter_error()),
            byte if starts_word(byte) => self.scan_word()?,
            byte if byte.is_ascii_digit() => {
                self.position += rest.iter().take_while(|byte| continues_word(**byte) || **byte == b'.').count();
            }
            _ => self.position += 1,
        }
        Ok(SqlToken::Other(&text[start..self.position]))
    }

    /// Scans a word, and the string after it if the word is a string prefix.
    fn scan_word(&mut self) -> Result<()> {
        let bytes = self.text.as_bytes();
        let start = self.position;
        self.position += bytes[start..].iter().take_while(|byte| continues_word(**byte)).count();
        if self.dialect != Dialect::Postgres {
            return Ok(());
        }
        let (word, rest) = (&self.text[start..self.position], &bytes[self.position..]);
        if word.eq_ignore_ascii_case("e") && rest.first() == Some(&b'\'') {
            self.scan_quoted(b'\'', true)?;
        } else if word.eq_ignore_ascii_case("u") && rest.starts_with(b"&\"") {
            return Err(self
                .error_at(start, "a name in `U&\"…\"` is not supported")
                .with_hint("write the name as it is"));
        }
        Ok(())
    }

    /// Scans to the closing quote.
    ///
    /// A doubled quote ends one string and starts the next, which gives the same result.
    fn scan_quoted(&mut self, end: u8, backslashes: bool) -> Result<()> {
        let (bytes, start) = (self.text.as_bytes(), self.position);
        self.position += 1;
        while let Some(byte) = bytes.get(self.position) {
            self.position += 1;
            match byte {
                b'\\' if backslashes => self.position += 1,
                byte if *byte == end && backslashes && bytes.get(self.position) == Some(&end) => self.position += 1,
                byte if *byte == end => return Ok(()),
                _ => {}
            }
        }
        Err(self.error_at(start, "a quote is opened and not closed"))
    }

    /// Scans `$$…$$` or `$tag$…$tag$`.
    fn scan_dollar_quoted(&mut self) -> Result<()> {
        let (rest, start) = (&self.text[self.position..], self.position);
        let tag = rest[1..].find('$').map(|end| &rest[..end + 2]);
        let sound = |tag: &&str| tag[1..tag.len() - 1].bytes().all(|byte| continues_word(byte) && byte != b'$');
        let Some(tag) = tag.filter(sound) else { return Err(self.unsupported_parameter_error()) };
        match rest[tag.len()..].find(tag) {
            Some(end) => self.position += end + 2 * tag.len(),
            None => return Err(self.error_at(start, "a dollar quote is opened and not closed")),
        }
        Ok(())
    }

    /// Scans a comment. Comments nest in PostgreSQL but not in SQLite.
    fn scan_comment(&mut self) -> Result<()> {
        let (bytes, start) = (self.text.as_bytes(), self.position);
        let mut depth = 0;
        while self.position < bytes.len() {
            let rest = &bytes[self.position..];
            self.position += 2;
            if rest.starts_with(b"/*") && (depth == 0 || self.dialect == Dialect::Postgres) {
                depth += 1;
            } else if rest.starts_with(b"*/") {
                depth -= 1;
                if depth == 0 {
                    return Ok(());
                }
            } else {
                self.position -= 1;
            }
        }
        Err(self.error_at(start, "a comment is opened and not closed"))
    }

    fn unsupported_parameter_error(&self) -> Error {
        let sign = &self.text[self.position..=self.position];
        self.error_at(self.position, &format!("`{sign}` marks a parameter of another kind"))
            .with_hint("write parameters as `:name` and give their values in `bind`")
    }

    fn error_at(&self, at: usize, what: &str) -> Error {
        let line = self.text[..at].matches('\n').count() + 1;
        Error::new(codes::SQL_INVALID, format!("{what}, in line {line} of the SQL"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parameters(text: &str, dialect: Dialect) -> Vec<&str> {
        let found = tokenize_sql(text, dialect).unwrap();
        let whole: String = found
            .iter()
            .map(|token| match token {
                SqlToken::Blank(text) | SqlToken::Other(text) => (*text).to_owned(),
                SqlToken::Semicolon => ";".to_owned(),
                SqlToken::Parameter(name) => format!(":{name}"),
            })
            .collect();
        assert_eq!(whole, text, "nothing is lost");
        let names = found.into_iter().filter_map(|token| match token {
            SqlToken::Parameter(name) => Some(name),
            _ => None,
        });
        names.collect()
    }

    #[test]
    fn parameters_in_strings_and_comments_are_ignored() {
        let text =
            "SELECT ':no', \":no\", 'it''s :no', a::date, x - :b -- :no\n/* :no ' */ FROM t WHERE a=:a_1 AND b[1 : 2]";
        for dialect in Dialect::ALL {
            let text = if dialect == Dialect::Sqlite { text.replace("b[1 : 2]", "[b :no]") } else { text.to_owned() };
            assert_eq!(parameters(&text, dialect), ["b", "a_1"], "{dialect:?}");
        }
    }

    #[test]
    fn quoting_follows_the_dialect() {
        let text =
            r"SELECT E'it\'s :no', e'\\', $$ :no ' $$, $tag$ $$ :no $tag$, a$b, /* /* */ :no */ :yes, x @> y ? 'z'";
        assert_eq!(parameters(text, Dialect::Postgres), ["yes"]);
        assert_eq!(parameters(r"SELECT '\', :yes, '\', `:no`, [:no], /* /* */ :too", Dialect::Sqlite), ["yes", "too"]);
        assert_eq!(parameters(r"SELECT '\', :yes, 'x', E'a''\' :no'", Dialect::Postgres), ["yes"]);
        assert_eq!(parameters("SELECT -- :no\r :yes", Dialect::Postgres), ["yes"]);
        assert!(parameters("SELECT -- :no\r :no", Dialect::Sqlite).is_empty());
    }

    #[test]
    fn unclosed_quotes_and_unnamed_parameters_are_refused() {
        let both = ["SELECT 'a", "SELECT \"a", "SELECT /* a", "SELECT 'a''"];
        for (text, dialect) in both.iter().flat_map(|text| Dialect::ALL.map(|dialect| (*text, dialect))) {
            assert_eq!(tokenize_sql(text, dialect).unwrap_err().code(), codes::SQL_INVALID, "{text}");
        }
        for text in ["SELECT $1", "SELECT $a$ x", "SELECT $a", "SELECT U&\"a\"", "SELECT /* /* */", r"SELECT E'\'"] {
            assert_eq!(tokenize_sql(text, Dialect::Postgres).unwrap_err().code(), codes::SQL_INVALID, "{text}");
        }
        for text in ["SELECT ?", "SELECT ?1", "SELECT $a", "SELECT @a", "SELECT `a", "SELECT [a"] {
            assert_eq!(tokenize_sql(text, Dialect::Sqlite).unwrap_err().code(), codes::SQL_INVALID, "{text}");
        }
        let error = tokenize_sql("SELECT 1,\n  'a", Dialect::Sqlite).unwrap_err();
        assert_eq!(error.message(), "a quote is opened and not closed, in line 2 of the SQL");
    }
}
