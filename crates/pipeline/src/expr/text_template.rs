//! Rewrites the operators of a whole template, such as that of a mail.

use super::rewrite::{ARITHMETIC_FUNCTION, COMPARE_FUNCTION, rewrite_operators, rewrite_statement};

/// Lets a template in minijinja's default syntax calculate and compare exactly, as expressions do.
///
/// Lines keep their numbers. What cannot be read here stays, so that minijinja reports it.
pub fn rewrite_template(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    let mut is_raw = false;
    while let Some(open) = rest.find('{') {
        let (before, tag) = rest.split_at(open);
        out.push_str(before);
        let Some(length) = tag_length(tag, is_raw) else {
            out.push('{');
            rest = &tag[1..];
            continue;
        };
        let (tag, after) = tag.split_at(length);
        match statement_keyword(tag) {
            "raw" => is_raw = true,
            "endraw" => is_raw = false,
            _ => {}
        }
        out.push_str(&rewrite_tag(tag).filter(|_| !is_raw).unwrap_or_else(|| tag.to_owned()));
        rest = after;
    }
    out.push_str(rest);
    out
}

/// The length of the tag at the start; `None` if there is none. Only `{% endraw %}` is a tag in raw text.
fn tag_length(text: &str, is_raw: bool) -> Option<usize> {
    let close = match text.get(..2)? {
        "{{" if !is_raw => "}}",
        "{%" if !is_raw || statement_keyword(text) == "endraw" => "%}",
        "{#" if !is_raw => return text.find("#}").map(|end| end + 2),
        _ => return None,
    };
    let (mut quote, mut depth, mut is_escaped) = (None, 0_usize, false);
    for (at, letter) in text.char_indices().skip(2) {
        match (quote, letter) {
            _ if is_escaped => is_escaped = false,
            (Some(_), '\\') => is_escaped = true,
            (Some(open), letter) if open == letter => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') => quote = Some(letter),
            _ if depth == 0 && text[at..].starts_with(close) => return Some(at + 2),
            (None, '(' | '[' | '{') => depth += 1,
            (None, ')' | ']' | '}') => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    None
}

/// The first word of `{% … %}`.
fn statement_keyword(tag: &str) -> &str {
    let body = tag.strip_prefix("{%").unwrap_or_default();
    let body = body.strip_prefix(['-', '+']).unwrap_or(body).trim_start();
    &body[..body.find(|letter: char| !letter.is_ascii_alphabetic()).unwrap_or(body.len())]
}

/// `None` if the tag has no operators, or cannot be read.
fn rewrite_tag(tag: &str) -> Option<String> {
    let (open, inner) = tag.split_at_checked(2)?;
    let (inner, close) = inner.split_at_checked(inner.len().checked_sub(2)?)?;
    // These trim the text around the tag.
    let (first, body) = match inner.starts_with(['-', '+']) {
        true => inner.split_at(1),
        false => ("", inner),
    };
    let (body, last) = match body.ends_with(['-', '+']) {
        true => body.split_at(body.len() - 1),
        false => (body, ""),
    };
    let rewritten = match open {
        "{{" => rewrite_operators(body)?,
        "{%" => rewrite_statement(body)?,
        _ => return None,
    };
    if !rewritten.contains(ARITHMETIC_FUNCTION) && !rewritten.contains(COMPARE_FUNCTION) {
        return None;
    }
    let count_lines = |text: &str| text.matches('\n').count();
    let lines = "\n".repeat(count_lines(body).saturating_sub(count_lines(&rewritten)));
    Some(format!("{open}{first} {rewritten} {lines}{last}{close}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operators_of_templates_become_calls() {
        for (source, expected) in [
            ("{{ a + 1 }} b + 1", r#"{{ __arithmetic(a,"+",1) }} b + 1"#),
            ("{%- if a > 5 -%}", r#"{%- if __compare(a,">",5) -%}"#),
            ("{% elif\n a\n > 5 %}x", "{% elif __compare(a,\">\",5) \n\n%}x"),
            ("{% set x, y = a * 2 %}", r#"{% set x , y = __arithmetic(a,"*",2) %}"#),
            ("{% for k, v in a if v.b > 2 recursive %}", r#"{% for k , v in a if __compare(v.b,">",2) recursive %}"#),
            ("{{ {'a': {'b': '}}' ~ c * 2}} }}", r#"{{ {'a':{'b':'}}' ~ __arithmetic(c,"*",2)}} }}"#),
        ] {
            assert_eq!(rewrite_template(source), expected, "{source}");
        }
        for source in [
            "",
            "{ a + 1 } {",
            "{{ a  |  upper }}{% if a %}{% else %}{% endif %}",
            "{# {{ a + 1 }} #}",
            "{% raw %}{{ a + 1 }}{% if a > 1 %}{%- endraw %}",
            "{% include 'a' %}{% set x %}{% block a %}",
            "{{ a + }} {{ a + 1",
            "ü {{ 'a + 1' }}",
        ] {
            assert_eq!(rewrite_template(source), source);
        }
    }
}
