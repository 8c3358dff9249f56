//! Replaces the operators of an expression by calls, because minijinja lets nobody define operators.
//!
//! `a + b * 2 > c` becomes `__compare(__arithmetic(a,"+",__arithmetic(b,"*",2)),">",c)`. The grammar is minijinja's.

use afterload_core::decimal::{is_number_text, keeps_every_digit};

/// The function for `+ - * / // % **`: operand, operator, operand, and so on, from left to right.
pub(super) const ARITHMETIC_FUNCTION: &str = "__arithmetic";
/// The function for comparisons and chains of them: operand, operator, operand, and so on.
pub(super) const COMPARE_FUNCTION: &str = "__compare";

const COMPARISONS: [&str; 6] = ["==", "!=", "<", "<=", ">", ">="];
/// Two characters that are one token.
const LONG_TOKENS: [&str; 6] = ["//", "**", "==", "!=", "<=", ">="];

/// Rewrites an expression that minijinja accepts. `None` if its grammar is unknown here.
pub(super) fn rewrite_operators(expression: &str) -> Option<String> {
    let mut parser = Rewriter { tokens: split_expression(expression), at: 0 };
    let rewritten = parser.rewrite_conditional()?;
    (parser.at == parser.tokens.len()).then_some(rewritten)
}

/// Rewrites `if`, `elif`, `set` or `for` of a template. `None` for any other statement.
pub(super) fn rewrite_statement(statement: &str) -> Option<String> {
    let mut parser = Rewriter { tokens: split_expression(statement), at: 0 };
    let keyword = parser.take_token()?;
    let last = match keyword {
        "if" | "elif" => keyword,
        "set" => "=",
        "for" => "in",
        _ => return None,
    };
    let mut whole = keyword.to_owned();
    // The names that are assigned.
    while last != keyword && !whole.ends_with(&format!(" {last}")) {
        whole = format!("{whole} {}", parser.take_token()?);
    }
    if keyword != "for" {
        whole = format!("{whole} {}", parser.rewrite_conditional()?);
    } else {
        whole = format!("{whole} {}", parser.rewrite_or()?);
        if parser.skip_token("if") {
            whole = format!("{whole} if {}", parser.rewrite_conditional()?);
        }
        if parser.skip_token("recursive") {
            whole.push_str(" recursive");
        }
    }
    (parser.at == parser.tokens.len()).then_some(whole)
}

/// Rewrites the tokens one by one. Each method follows the method of minijinja's parser for the same level.
struct Rewriter<'a> {
    tokens: Vec<&'a str>,
    at: usize,
}

impl<'a> Rewriter<'a> {
    fn peek_token(&self) -> &'a str {
        self.tokens.get(self.at).copied().unwrap_or_default()
    }

    fn take_token(&mut self) -> Option<&'a str> {
        let token = self.tokens.get(self.at).copied();
        self.at += 1;
        token
    }

    fn skip_token(&mut self, token: &str) -> bool {
        let found = self.peek_token() == token;
        self.at += usize::from(found);
        found
    }

    fn expect_token(&mut self, token: &str) -> Option<()> {
        self.skip_token(token).then_some(())
    }

    fn rewrite_conditional(&mut self) -> Option<String> {
        let mut whole = self.rewrite_or()?;
        while self.skip_token("if") {
            let test = self.rewrite_or()?;
            whole = match self.skip_token("else") {
                true => format!("({whole} if {test} else {})", self.rewrite_conditional()?),
                false => format!("({whole} if {test})"),
            };
        }
        Some(whole)
    }

    fn rewrite_or(&mut self) -> Option<String> {
        self.rewrite_kept(&["or"], |parser| parser.rewrite_kept(&["and"], Self::rewrite_not))
    }

    fn rewrite_not(&mut self) -> Option<String> {
        match self.skip_token("not") {
            true => Some(format!("not {}", self.rewrite_not()?)),
            false => self.rewrite_comparison(),
        }
    }

    fn rewrite_comparison(&mut self) -> Option<String> {
        let first = self.rewrite_sum()?;
        let mut rest = Vec::new();
        loop {
            let operator = match self.peek_token() {
                operator if COMPARISONS.contains(&operator) || operator == "in" => operator,
                "not" if self.tokens.get(self.at + 1) == Some(&"in") => {
                    self.at += 1;
                    "not in"
                }
                _ => break,
            };
            self.at += 1;
            rest.push((operator, self.rewrite_sum()?));
        }
        if rest.is_empty() {
            return Some(first);
        }
        let rest: Vec<String> = rest.iter().map(|(operator, operand)| format!(",\"{operator}\",{operand}")).collect();
        Some(format!("{COMPARE_FUNCTION}({first}{})", rest.concat()))
    }

    fn rewrite_sum(&mut self) -> Option<String> {
        self.rewrite_arithmetic(&["+", "-"], |parser| parser.rewrite_kept(&["~"], Self::rewrite_product))
    }

    fn rewrite_product(&mut self) -> Option<String> {
        self.rewrite_arithmetic(&["*", "/", "//", "%"], |parser| {
            parser.rewrite_arithmetic(&["**"], Self::rewrite_unary)
        })
    }

    fn rewrite_arithmetic(&mut self, operators: &[&str], part: fn(&mut Self) -> Option<String>) -> Option<String> {
        let first = part(self)?;
        let mut rest = String::new();
        while operators.contains(&self.peek_token()) {
            let operator = self.take_token()?;
            rest = format!("{rest},\"{operator}\",{}", part(self)?);
        }
        // One call for the whole chain, because minijinja limits how deep calls may be nested.
        Some(if rest.is_empty() { first } else { format!("{ARITHMETIC_FUNCTION}({first}{rest})") })
    }

    /// Keeps the operators as they are.
    fn rewrite_kept(&mut self, operators: &[&str], part: fn(&mut Self) -> Option<String>) -> Option<String> {
        let mut left = part(self)?;
        while operators.contains(&self.peek_token()) {
            let operator = self.take_token()?;
            left = format!("{left} {operator} {}", part(self)?);
        }
        Some(left)
    }

    fn rewrite_unary(&mut self) -> Option<String> {
        let mut operand = self.rewrite_operand()?;
        loop {
            if self.skip_token("|") {
                operand = format!("{operand}|{}", self.take_dotted_name()?);
                if self.peek_token() == "(" {
                    operand.push_str(&self.rewrite_arguments()?);
                }
            } else if self.skip_token("is") {
                operand.push_str(if self.skip_token("not") { " is not " } else { " is " });
                operand.push_str(&self.take_dotted_name()?);
                if self.peek_token() == "(" {
                    operand.push_str(&self.rewrite_arguments()?);
                } else if self.starts_test_argument() {
                    operand = format!("{operand} {}", self.rewrite_operand()?);
                }
            } else {
                return Some(operand);
            }
        }
    }

    fn starts_test_argument(&self) -> bool {
        let token = self.peek_token();
        let first = token.chars().next();
        let starts = first.is_some_and(|first| is_word(first) || matches!(first, '"' | '\'' | '+' | '-' | '[' | '{'));
        starts && !["and", "or", "else", "is"].contains(&token)
    }

    fn take_dotted_name(&mut self) -> Option<String> {
        let mut name = self.take_token()?.to_owned();
        while self.skip_token(".") {
            name = format!("{name}.{}", self.take_token()?);
        }
        Some(name)
    }

    /// A negation applies to the operand with its lookups, but not to its filters.
    fn rewrite_operand(&mut self) -> Option<String> {
        let mut operand = match self.skip_token("-") {
            true => return Some(format!("-{}", self.rewrite_operand()?)),
            false => self.rewrite_primary()?,
        };
        loop {
            match self.peek_token() {
                "." => {
                    self.at += 1;
                    operand = format!("{operand}.{}", self.take_token()?);
                }
                "[" => operand.push_str(&self.rewrite_subscript()?),
                "(" => operand.push_str(&self.rewrite_arguments()?),
                _ => return Some(operand),
            }
        }
    }

    fn rewrite_subscript(&mut self) -> Option<String> {
        self.expect_token("[")?;
        let mut whole = String::from("[");
        while !self.skip_token("]") {
            match self.skip_token(":") {
                true => whole.push(':'),
                false => whole.push_str(&self.rewrite_conditional()?),
            }
        }
        whole.push(']');
        Some(whole)
    }

    fn rewrite_arguments(&mut self) -> Option<String> {
        self.expect_token("(")?;
        let mut whole = String::from("(");
        while !self.skip_token(")") {
            let spread = ["**", "*"].into_iter().find(|spread| self.skip_token(spread));
            whole.push_str(spread.unwrap_or_default());
            whole.push_str(&self.rewrite_conditional()?);
            if self.skip_token("=") {
                whole = format!("{whole}={}", self.rewrite_conditional()?);
            }
            if self.skip_token(",") {
                whole.push(',');
            } else if self.peek_token() != ")" {
                return None;
            }
        }
        whole.push(')');
        Some(whole)
    }

    fn rewrite_primary(&mut self) -> Option<String> {
        let token = self.take_token()?;
        match token {
            "(" => self.rewrite_items(token, ")"),
            "[" => self.rewrite_items(token, "]"),
            "{" => self.rewrite_items(token, "}"),
            _ if token.starts_with(['"', '\'']) => {
                let mut whole = token.to_owned();
                while self.peek_token().starts_with(['"', '\'']) {
                    whole = format!("{whole} {}", self.take_token()?);
                }
                Some(whole)
            }
            // Minijinja would read it as a float.
            _ if token.contains('.') && is_number_text(token) && !keeps_every_digit(token) => {
                Some(format!("\"{token}\""))
            }
            _ if token.starts_with(is_word) => Some(token.to_owned()),
            _ => None,
        }
    }

    /// Rewrites a list, a tuple, a map, or an expression in parentheses.
    fn rewrite_items(&mut self, open: &str, close: &str) -> Option<String> {
        let mut whole = open.to_owned();
        while !self.skip_token(close) {
            whole.push_str(&self.rewrite_conditional()?);
            if open == "{" {
                self.expect_token(":")?;
                whole = format!("{whole}:{}", self.rewrite_conditional()?);
            }
            if self.skip_token(",") {
                whole.push(',');
            } else if self.peek_token() != close {
                return None;
            }
        }
        whole.push_str(close);
        Some(whole)
    }
}

fn is_word(letter: char) -> bool {
    letter.is_alphanumeric() || letter == '_'
}

/// Splits an expression as minijinja does.
fn split_expression(expression: &str) -> Vec<&str> {
    let mut tokens: Vec<&str> = Vec::new();
    let mut rest = expression.trim_start();
    while let Some(first) = rest.chars().next() {
        let length = match first {
            '"' | '\'' => string_length(rest, first),
            // After a point, a number is an index: `rows.0.1` has two of them.
            '0'..='9' if tokens.last() == Some(&".") => word_length(rest),
            '0'..='9' => number_length(rest),
            _ if is_word(first) => word_length(rest),
            _ if LONG_TOKENS.iter().any(|long| rest.starts_with(long)) => 2,
            _ => first.len_utf8(),
        };
        let (token, after) = rest.split_at(length);
        tokens.push(token);
        rest = after.trim_start();
    }
    tokens
}

fn word_length(text: &str) -> usize {
    text.find(|letter| !is_word(letter)).unwrap_or(text.len())
}

fn string_length(text: &str, quote: char) -> usize {
    let mut escaped = false;
    let end = text[1..].find(|letter| {
        let ends = letter == quote && !escaped;
        escaped = letter == '\\' && !escaped;
        ends
    });
    end.map_or(text.len(), |end| end + 2)
}

/// The length of a number: digits, a fraction unless the point begins a lookup, an exponent.
fn number_length(text: &str) -> usize {
    let mut length = word_length(text);
    let has_radix = ["0x", "0X", "0b", "0B", "0o", "0O"].iter().any(|prefix| text.starts_with(prefix));
    if let Some(fraction) = text[length..].strip_prefix('.').filter(|_| !has_radix) {
        let is_exponent = fraction.starts_with(['e', 'E'])
            && fraction[1..].starts_with(|next: char| next.is_ascii_digit() || matches!(next, '+' | '-'));
        let is_lookup = fraction.starts_with(|next: char| next.is_alphabetic() || next == '_');
        if is_exponent || !is_lookup {
            length += 1 + word_length(fraction);
        }
    }
    let has_exponent = !has_radix && text[..length].ends_with(['e', 'E']);
    if let Some(exponent) = text[length..].strip_prefix(['+', '-']).filter(|_| has_exponent) {
        length += 1 + word_length(exponent);
    }
    length
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operators_become_calls_and_everything_else_stays() {
        for (expression, expected) in [
            ("a + b * 2 > c", r#"__compare(__arithmetic(a,"+",__arithmetic(b,"*",2)),">",c)"#),
            ("a - b - c", r#"__arithmetic(a,"-",b,"-",c)"#),
            ("1 < x <= 3", r#"__compare(1,"<",x,"<=",3)"#),
            ("1 < x in y", r#"__compare(1,"<",x,"in",y)"#),
            ("a not in b and not c", r#"__compare(a,"not in",b) and not c"#),
            ("a ~ b * 2 ~ c", r#"a ~ __arithmetic(b,"*",2) ~ c"#),
            ("-a.b[0] ** 2 | abs", r#"__arithmetic(-a.b[0],"**",2|abs)"#),
            ("rows.0.1 + 1.5e-3 + 2.real", r#"__arithmetic(rows.0.1,"+",1.5e-3,"+",2.real)"#),
            ("x[1:n+1] + y[::2]", r#"__arithmetic(x[1:__arithmetic(n,"+",1)],"+",y[::2])"#),
            (
                "a is divisibleby 3 and d if c == 'a\\'+b' else [1, {'k': d - 1,},]",
                r#"(a is divisibleby 3 and d if __compare(c,"==",'a\'+b') else [1,{'k':__arithmetic(d,"-",1),},])"#,
            ),
            (
                "f(*a, k=b+1, **c) | join(', ') | default(1 + 1, true)",
                r#"f(*a,k=__arithmetic(b,"+",1),**c)|join(', ')|default(__arithmetic(1,"+",1),true)"#,
            ),
            ("(a, ) == ()", r#"__compare((a,),"==",())"#),
            ("'a' 'b' is in ['ab']", "'a' 'b' is in ['ab']"),
            ("a if b", "(a if b)"),
            ("a == 123456789012345678.95", r#"__compare(a,"==","123456789012345678.95")"#),
            ("0x1F // 0b1", r#"__arithmetic(0x1F,"//",0b1)"#),
        ] {
            assert_eq!(rewrite_operators(expression).as_deref(), Some(expected), "{expression}");
        }
        for expression in ["", "a +", "(a", "a b", "[1 2]", "f(a b)", "x ? y"] {
            assert_eq!(rewrite_operators(expression), None, "{expression}");
        }
    }
}
