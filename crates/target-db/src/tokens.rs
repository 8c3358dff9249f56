//! SQL that others wrote, cut into tokens: just enough to tell a parameter from what only looks like one.

use afterload_core::dialect::Dialect;
use afterload_core::error::{Error, Result};

/// A piece of SQL. Together, all pieces are the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Token<'a> {
    /// White space, or a comment.
    Blank(&'a str),
    /// A semicolon outside of everything.
    Semicolon,
    /// `:name`, without the colon.
    Parameter(&'a str),
    /// Anything else: words, numbers, strings, operators.
    Other(&'a str),
}

/// Cuts the text into tokens.
///
/// # Errors
/// `sql_invalid` for a quote or comment without an end, for parameters that are not written `:name`, and for names in
/// `U&"…"`, in which other readers would see another name.
pub(super) fn tokens(text: &str, dialect: Dialect) -> Result<Vec<Token<'_>>> {
    let mut scanner = Scanner { text, dialect, at: 0 };
    let mut found = Vec::new();
    while scanner.at < text.len() {
        found.push(scanner.next()?);
    }
    Ok(found)
}

struct Scanner<'a> {
    text: &'a str,
    dialect: Dialect,
    at: usize,
}

fn starts_word(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || byte == b'_' || byte >= 0x80
}

fn goes_on(byte: u8) -> bool {
    starts_word(byte) || byte.is_ascii_digit() || byte == b'$'
}

impl<'a> Scanner<'a> {
    fn next(&mut self) -> Result<Token<'a>> {
        let (text, start) = (self.text, self.at);
        let rest = &text.as_bytes()[start..];
        let second = rest.get(1).copied().unwrap_or_default();
        let postgres = self.dialect == Dialect::Postgres;
        match rest[0] {
            b';' => {
                self.at += 1;
                return Ok(Token::Semicolon);
            }
            byte if byte.is_ascii_whitespace() => {
                self.at += rest.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
                return Ok(Token::Blank(&text[start..self.at]));
            }
            b'-' if second == b'-' => {
                self.at += rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len());
                return Ok(Token::Blank(&text[start..self.at]));
            }
            b'/' if second == b'*' => {
                self.comment()?;
                return Ok(Token::Blank(&text[start..self.at]));
            }
            b':' if second == b':' => self.at += 2,
            b':' if second.is_ascii_alphabetic() || second == b'_' => {
                self.at += 1;
                self.at += rest[1..].iter().take_while(|byte| byte.is_ascii_alphanumeric() || **byte == b'_').count();
                return Ok(Token::Parameter(&text[start + 1..self.at]));
            }
            b'\'' => self.quoted(b'\'', false)?,
            b'"' => self.quoted(b'"', false)?,
            b'`' if !postgres => self.quoted(b'`', false)?,
            b'[' if !postgres => self.quoted(b']', false)?,
            b'$' if postgres && !second.is_ascii_digit() => self.dollars()?,
            b'$' | b'?' | b'@' if !postgres => return Err(self.other_parameter()),
            b'$' => return Err(self.other_parameter()),
            byte if starts_word(byte) => self.word()?,
            byte if byte.is_ascii_digit() => {
                self.at += rest.iter().take_while(|byte| goes_on(**byte) || **byte == b'.').count();
            }
            _ => self.at += 1,
        }
        Ok(Token::Other(&text[start..self.at]))
    }

    /// A word, with the string behind it if the word is the prefix of one.
    fn word(&mut self) -> Result<()> {
        let bytes = self.text.as_bytes();
        let start = self.at;
        self.at += bytes[start..].iter().take_while(|byte| goes_on(**byte)).count();
        if self.dialect != Dialect::Postgres {
            return Ok(());
        }
        let (word, rest) = (&self.text[start..self.at], &bytes[self.at..]);
        if word.eq_ignore_ascii_case("e") && rest.first() == Some(&b'\'') {
            self.quoted(b'\'', true)?;
        } else if word.eq_ignore_ascii_case("u") && rest.starts_with(b"&\"") {
            return Err(self.fault(start, "a name in `U&\"…\"` is not supported").hint("write the name as it is"));
        }
        Ok(())
    }

    /// From one quote to the next. Two in a row read as the end of one string and the start of another: the same.
    fn quoted(&mut self, end: u8, backslashes: bool) -> Result<()> {
        let (bytes, start) = (self.text.as_bytes(), self.at);
        self.at += 1;
        while let Some(byte) = bytes.get(self.at) {
            self.at += 1;
            match byte {
                b'\\' if backslashes => self.at += 1,
                byte if *byte == end && backslashes && bytes.get(self.at) == Some(&end) => self.at += 1,
                byte if *byte == end => return Ok(()),
                _ => {}
            }
        }
        Err(self.fault(start, "a quote is opened and not closed"))
    }

    /// `$$…$$` or `$tag$…$tag$`.
    fn dollars(&mut self) -> Result<()> {
        let (rest, start) = (&self.text[self.at..], self.at);
        let tag = rest[1..].find('$').map(|end| &rest[..end + 2]);
        let sound = |tag: &&str| tag[1..tag.len() - 1].bytes().all(|byte| goes_on(byte) && byte != b'$');
        let Some(tag) = tag.filter(sound) else { return Err(self.other_parameter()) };
        match rest[tag.len()..].find(tag) {
            Some(end) => self.at += end + 2 * tag.len(),
            None => return Err(self.fault(start, "a dollar quote is opened and not closed")),
        }
        Ok(())
    }

    /// PostgreSQL's comments nest, SQLite's do not.
    fn comment(&mut self) -> Result<()> {
        let (bytes, start) = (self.text.as_bytes(), self.at);
        let mut depth = 0;
        while self.at < bytes.len() {
            let rest = &bytes[self.at..];
            self.at += 2;
            if rest.starts_with(b"/*") && (depth == 0 || self.dialect == Dialect::Postgres) {
                depth += 1;
            } else if rest.starts_with(b"*/") {
                depth -= 1;
                if depth == 0 {
                    return Ok(());
                }
            } else {
                self.at -= 1;
            }
        }
        Err(self.fault(start, "a comment is opened and not closed"))
    }

    fn other_parameter(&self) -> Error {
        let sign = &self.text[self.at..=self.at];
        self.fault(self.at, &format!("`{sign}` marks a parameter of another kind"))
            .hint("write parameters as `:name` and give their values in `bind`")
    }

    fn fault(&self, at: usize, what: &str) -> Error {
        let line = self.text[..at].matches('\n').count() + 1;
        Error::permanent("sql_invalid", format!("{what}, in line {line} of the SQL"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parameters(text: &str, dialect: Dialect) -> Vec<&str> {
        let found = tokens(text, dialect).unwrap();
        let whole: String = found
            .iter()
            .map(|token| match token {
                Token::Blank(text) | Token::Other(text) => (*text).to_owned(),
                Token::Semicolon => ";".to_owned(),
                Token::Parameter(name) => format!(":{name}"),
            })
            .collect();
        assert_eq!(whole, text, "nothing is lost");
        let names = found.into_iter().filter_map(|token| match token {
            Token::Parameter(name) => Some(name),
            _ => None,
        });
        names.collect()
    }

    #[test]
    fn only_what_is_a_parameter_is_one() {
        let text =
            "SELECT ':no', \":no\", 'it''s :no', a::date, x - :b -- :no\n/* :no ' */ FROM t WHERE a=:a_1 AND b[1 : 2]";
        for dialect in Dialect::ALL {
            let text = if dialect == Dialect::Sqlite { text.replace("b[1 : 2]", "[b :no]") } else { text.to_owned() };
            assert_eq!(parameters(&text, dialect), ["b", "a_1"], "{dialect:?}");
        }
    }

    #[test]
    fn each_dialect_has_quotes_of_its_own() {
        let text =
            r"SELECT E'it\'s :no', e'\\', $$ :no ' $$, $tag$ $$ :no $tag$, a$b, /* /* */ :no */ :yes, x @> y ? 'z'";
        assert_eq!(parameters(text, Dialect::Postgres), ["yes"]);
        assert_eq!(parameters(r"SELECT '\', :yes, '\', `:no`, [:no], /* /* */ :too", Dialect::Sqlite), ["yes", "too"]);
        assert_eq!(parameters(r"SELECT '\', :yes, 'x', E'a''\' :no'", Dialect::Postgres), ["yes"]);
    }

    #[test]
    fn what_has_no_end_or_no_name_is_refused() {
        let both = ["SELECT 'a", "SELECT \"a", "SELECT /* a", "SELECT 'a''"];
        for (text, dialect) in both.iter().flat_map(|text| Dialect::ALL.map(|dialect| (*text, dialect))) {
            assert_eq!(tokens(text, dialect).unwrap_err().code(), "sql_invalid", "{text}");
        }
        for text in ["SELECT $1", "SELECT $a$ x", "SELECT $a", "SELECT U&\"a\"", "SELECT /* /* */", r"SELECT E'\'"] {
            assert_eq!(tokens(text, Dialect::Postgres).unwrap_err().code(), "sql_invalid", "{text}");
        }
        for text in ["SELECT ?", "SELECT ?1", "SELECT $a", "SELECT @a", "SELECT `a", "SELECT [a"] {
            assert_eq!(tokens(text, Dialect::Sqlite).unwrap_err().code(), "sql_invalid", "{text}");
        }
        let error = tokens("SELECT 1,\n  'a", Dialect::Sqlite).unwrap_err();
        assert_eq!(error.message(), "a quote is opened and not closed, in line 2 of the SQL");
    }
}
