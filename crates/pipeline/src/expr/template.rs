//! Finds `${{ … }}` in text.

use std::ops::Range;

use afterload_core::work::{count_steps, search_text};

/// A segment of text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TemplateSegment {
    /// Literal text.
    Text(Range<usize>),
    /// The expression between `${{` and `}}`, without surrounding spaces.
    Expression(Range<usize>),
}

/// An expression without `}}`; holds the offset of its `${{`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnclosedExpression(pub usize);

/// True if the text contains an expression.
pub fn has_expression(text: &str) -> bool {
    text.contains("${{")
}

/// Splits text at its expressions. Quotes and braces inside an expression do not end it.
///
/// # Errors
/// The offset of an expression that is not closed.
pub fn split_template(text: &str) -> Result<Vec<TemplateSegment>, UnclosedExpression> {
    let mut pieces = Vec::new();
    let mut at = 0;
    while let Some(found) = search_text(&text[at..], "${{") {
        let open = at + found;
        if open > at {
            pieces.push(TemplateSegment::Text(at..open));
        }
        let start = open + 3;
        let end = start + find_expression_end(&text[start..]).ok_or(UnclosedExpression(open))?;
        pieces.push(TemplateSegment::Expression(trim_range(text, start..end)));
        at = end + 2;
    }
    if at < text.len() {
        pieces.push(TemplateSegment::Text(at..text.len()));
    }
    Ok(pieces)
}

/// Returns the expression if the text consists of exactly one (and spaces around it).
pub fn sole_expression(text: &str) -> Option<Range<usize>> {
    let mut found = None;
    for piece in split_template(text).ok()? {
        match piece {
            TemplateSegment::Expression(range) if found.is_none() => found = Some(range),
            TemplateSegment::Text(range) if text[range.clone()].trim().is_empty() => {}
            _ => return None,
        }
    }
    found
}

/// Returns the offset of the `}}` that ends the expression at the start of `text`.
fn find_expression_end(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    let (mut quote, mut depth, mut at) = (None, 0_usize, 0);
    while at < bytes.len() {
        count_steps(1);
        match (quote, bytes[at]) {
            (Some(_), b'\\') => at += 1,
            (Some(open), byte) if byte == open => quote = None,
            (Some(_), _) => {}
            (None, byte @ (b'"' | b'\'')) => quote = Some(byte),
            (None, b'{') => depth += 1,
            (None, b'}') if depth > 0 => depth -= 1,
            (None, b'}') if bytes.get(at + 1) == Some(&b'}') => return Some(at),
            (None, _) => {}
        }
        at += 1;
    }
    None
}

fn trim_range(text: &str, range: Range<usize>) -> Range<usize> {
    let inner = &text[range.clone()];
    let start = range.start + (inner.len() - inner.trim_start().len());
    start..start + inner.trim().len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use afterload_core::work::assert_linear;

    fn expressions(text: &str) -> Vec<&str> {
        let pieces = split_template(text).expect("every expression ends");
        pieces
            .into_iter()
            .filter_map(|piece| match piece {
                TemplateSegment::Expression(range) => Some(&text[range]),
                TemplateSegment::Text(_) => None,
            })
            .collect()
    }

    #[test]
    fn quotes_and_braces_do_not_end_expression() {
        assert_eq!(expressions("a ${{ x }} b ${{y}}"), ["x", "y"]);
        assert_eq!(expressions("${{ {'a': {'b': 1}} }}"), ["{'a': {'b': 1}}"]);
        assert_eq!(expressions(r#"${{ "}}" ~ '\'}}' }}"#), [r#""}}" ~ '\'}}'"#]);
        assert_eq!(expressions("$ {{ x }} $x {{ y }}"), [""; 0]);
        assert_eq!(split_template("ü ${{ x"), Err(UnclosedExpression(3)));
    }

    #[test]
    fn hostile_templates_take_linear_work() {
        for (before, repeated, after) in [
            ("", "${{ x }}", ""),
            ("", "${{", ""),
            ("", "${{ \"", ""),
            ("", "${{ {", "}}"),
            ("${{ ", "{", "}}"),
            ("${{ '", "\\'", "}}"),
            ("", "$", "{{"),
            ("", "}}", ""),
        ] {
            let shape = |count: usize| format!("{before}{}{after}", repeated.repeat(count));
            assert_linear(repeated, shape, |text| drop((split_template(text), sole_expression(text))));
        }
    }

    #[test]
    fn sole_expression_ignores_surrounding_spaces() {
        assert!(sole_expression(" ${{ x }}\n").is_some());
        assert!(sole_expression("${{ x }}${{ y }}").is_none());
        assert!(sole_expression("a ${{ x }}").is_none());
        assert!(sole_expression("x").is_none());
    }
}
