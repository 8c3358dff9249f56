//! The words and signs of a statement, without strings, comments and numbers.

use crate::bind::ParameterizedSql;
use crate::tokenizer::{SqlToken, tokenize_sql};
use afterload_core::error::Result;

/// A part of a statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Lexeme {
    /// A keyword or an unquoted name, in lower case as PostgreSQL folds it.
    Word(String),
    /// A quoted name, without its quotes.
    Quoted(String),
    /// A sign outside of strings, such as a bracket.
    Sign(char),
    /// A string, a number or a parameter.
    Value,
}

impl Lexeme {
    pub(crate) fn is_sign(&self, sign: char) -> bool {
        *self == Self::Sign(sign)
    }

    pub(crate) fn is_word(&self, words: &[&str]) -> bool {
        matches!(self, Self::Word(word) if words.contains(&word.as_str()))
    }

    /// The name, if this can be one.
    pub(crate) fn as_name(&self) -> Option<&str> {
        match self {
            Self::Word(name) | Self::Quoted(name) => Some(name),
            Self::Sign(_) | Self::Value => None,
        }
    }
}

/// Splits a statement.
///
/// # Errors
/// `sql_invalid`.
pub(crate) fn split_lexemes(statement: &ParameterizedSql) -> Result<Vec<Lexeme>> {
    let text = statement.to_named_sql();
    let mut found: Vec<Lexeme> = Vec::new();
    let mut after_quote = None;
    for token in tokenize_sql(&text, statement.dialect())? {
        let lexeme = match token {
            SqlToken::Blank(_) => {
                after_quote = None;
                continue;
            }
            SqlToken::Semicolon => Lexeme::Sign(';'),
            SqlToken::Parameter(_) => Lexeme::Value,
            SqlToken::Other(text) => read_lexeme(text),
        };
        let quote = match token {
            SqlToken::Other(text) => text.chars().next().filter(|sign| matches!(sign, '"' | '`')),
            _ => None,
        };
        match (found.last_mut(), &lexeme) {
            // A doubled quote stands for one quote: the tokenizer gives two names without a blank between them.
            (Some(Lexeme::Quoted(name)), Lexeme::Quoted(rest)) if quote.is_some() && quote == after_quote => {
                name.extend(quote);
                name.push_str(rest);
            }
            _ => found.push(lexeme),
        }
        after_quote = quote;
    }
    Ok(found)
}

fn read_lexeme(text: &str) -> Lexeme {
    let inner = || text.get(1..text.len() - 1).unwrap_or_default().to_owned();
    match text.chars().next() {
        Some('"' | '`') => Lexeme::Quoted(inner()),
        Some('[') if text.len() > 1 => Lexeme::Quoted(inner()),
        Some('\'' | '0'..='9') => Lexeme::Value,
        Some('$') if text.len() > 1 => Lexeme::Value,
        // A string with a prefix, such as `E'…'`.
        Some(_) if text.ends_with('\'') => Lexeme::Value,
        Some(first) if first.is_alphabetic() || first == '_' || !first.is_ascii() => {
            Lexeme::Word(text.to_ascii_lowercase())
        }
        first => Lexeme::Sign(first.unwrap_or_default()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use afterload_core::dialect::Dialect;

    #[test]
    fn names_are_read_as_the_databases_read_them() {
        let read = |text: &str, dialect| {
            let lexemes = split_lexemes(&ParameterizedSql::parse(text, dialect).unwrap()).unwrap();
            lexemes.into_iter().filter(|lexeme| *lexeme != Lexeme::Value).collect::<Vec<_>>()
        };
        let (word, quoted) = (|name: &str| Lexeme::Word(name.into()), |name: &str| Lexeme::Quoted(name.into()));
        let text = r#"SELECT E'f(', $$f($$, "A""b" , "c" "d" /* f( */ . Été (:x, 'f(', 1)"#;
        let (comma, open, close) = (Lexeme::Sign(','), Lexeme::Sign('('), Lexeme::Sign(')'));
        let expected = [
            word("select"),
            comma.clone(),
            comma.clone(),
            quoted("A\"b"),
            comma.clone(),
            quoted("c"),
            quoted("d"),
            Lexeme::Sign('.'),
            word("Été"),
            open,
            comma.clone(),
            comma,
            close,
        ];
        assert_eq!(read(text, Dialect::Postgres), expected);
        let expected = [word("select"), quoted("a b"), Lexeme::Sign('.'), quoted("c`d")];
        assert_eq!(read("SELECT [a b].`c``d`", Dialect::Sqlite), expected);
    }
}
