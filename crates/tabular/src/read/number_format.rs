//! How people write numbers: decimal and thousands marks, currencies, percent signs and negative numbers.

use super::cell_parser::parse_decimal;

/// Blanks that separate groups of digits.
const BLANKS: &[char] = &[' ', '\u{a0}', '\u{202f}', '\u{2009}'];
/// Apostrophes that separate groups of digits.
const APOSTROPHES: &[char] = &['\'', '\u{2019}'];

/// How a column writes its numbers. Numbers that do not fit exactly are refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NumberFormat {
    /// The marks before the fraction.
    pub decimal: Vec<char>,
    /// The marks between groups of digits; none if digits stand without marks.
    pub thousands: Vec<char>,
    /// Whether groups have two digits, except the last one, as in India.
    pub indian_groups: bool,
    /// Whether a currency may stand beside the number: a symbol or a code of three letters.
    pub currency: bool,
    /// Whether a percent sign may follow. It divides the number by 100.
    pub percent: bool,
    /// Whether `(5)` is -5.
    pub brackets: bool,
    /// Whether `5-` is -5.
    pub trailing_minus: bool,
}

impl Default for NumberFormat {
    fn default() -> Self {
        Self {
            decimal: vec!['.'],
            thousands: Vec::new(),
            indian_groups: false,
            currency: false,
            percent: false,
            brackets: false,
            trailing_minus: false,
        }
    }
}

impl NumberFormat {
    /// The format of a locale such as `de`, `fr-CH` or `en-IN`.
    pub fn for_locale(name: &str) -> Option<Self> {
        let name = name.to_ascii_lowercase().replace('_', "-");
        let language = name.split('-').next().unwrap_or_default();
        let marks = |decimal: &[char], thousands: &[char]| {
            Some(Self { decimal: decimal.to_vec(), thousands: thousands.to_vec(), ..Self::default() })
        };
        match (name.as_str(), language) {
            // Swiss French is written with either mark, and neither of them separates groups.
            ("fr-ch", _) => marks(&['.', ','], &[BLANKS, APOSTROPHES].concat()),
            ("de-ch" | "it-ch" | "en-ch" | "rm-ch" | "de-li", _) => marks(&['.'], APOSTROPHES),
            ("en-in", _) | (_, "hi" | "bn" | "ta" | "te" | "mr" | "gu") => {
                marks(&['.'], &[',']).map(|format| Self { indian_groups: true, ..format })
            }
            ("es-mx" | "es-us" | "es-pr", _) => marks(&['.'], &[',']),
            ("pt-br", _) => marks(&[','], &['.']),
            ("en-za", _) => marks(&[','], BLANKS),
            (_, "en" | "ja" | "zh" | "ko" | "th" | "he") => marks(&['.'], &[',']),
            (_, "de" | "nl" | "da" | "es" | "it" | "id" | "tr" | "el" | "sl" | "hr" | "sr" | "ro" | "vi" | "ca") => {
                marks(&[','], &['.'])
            }
            (
                _,
                "fr" | "sv" | "nb" | "nn" | "no" | "fi" | "cs" | "sk" | "uk" | "ru" | "bg" | "hu" | "pl" | "pt" | "lt"
                | "lv" | "et",
            ) => marks(&[','], BLANKS),
            _ => None,
        }
    }

    /// All marks that mean the same as `mark` between groups of digits.
    pub fn thousands_like(mark: char) -> Vec<char> {
        [BLANKS, APOSTROPHES].into_iter().find(|class| class.contains(&mark)).map_or(vec![mark], <[char]>::to_vec)
    }

    /// Normalizes a number to `-?[0-9]+(\.[0-9]+)?`.
    pub fn parse(&self, text: &str) -> Option<String> {
        let (mut rest, mut negative, mut signed) = (text.trim(), false, false);
        if self.brackets
            && let Some(inner) = rest.strip_prefix('(').and_then(|rest| rest.strip_suffix(')'))
        {
            (rest, negative, signed) = (inner.trim(), true, true);
        }
        let (mut currency, mut percent) = (!self.currency, false);
        loop {
            let before = rest;
            if let Some(after) = rest.strip_prefix(['-', '\u{2212}']).filter(|_| !signed) {
                (rest, negative, signed) = (after.trim_start(), true, true);
            } else if let Some(after) = rest.strip_prefix('+').filter(|_| !signed) {
                (rest, signed) = (after.trim_start(), true);
            } else if let Some(after) = rest.strip_suffix(['-', '\u{2212}']).filter(|_| self.trailing_minus && !signed)
            {
                (rest, negative, signed) = (after.trim_end(), true, true);
            } else if let Some(after) = rest.strip_suffix('%').filter(|_| self.percent && !percent) {
                (rest, percent) = (after.trim_end(), true);
            } else if let Some(after) = strip_currency(rest).filter(|_| !currency) {
                (rest, currency) = (after, true);
            }
            if rest == before {
                break;
            }
        }
        let (mantissa, exponent) = match rest.find(['e', 'E']) {
            Some(_) if percent => return None,
            Some(at) => (&rest[..at], &rest[at..]),
            None if percent => (rest, "e-2"),
            None => (rest, ""),
        };
        let (whole, fraction) = match mantissa.split_once(&self.decimal[..]) {
            Some((_, "")) => return None,
            Some((whole, fraction)) => (whole, fraction),
            None => (mantissa, ""),
        };
        if !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let whole = self.join_groups(whole, fraction.is_empty())?;
        let sign = if negative { "-" } else { "" };
        let point = if fraction.is_empty() { "" } else { "." };
        parse_decimal(&format!("{sign}{whole}{point}{fraction}{exponent}")).map(std::borrow::Cow::into_owned)
    }

    /// Removes the marks between groups. Only groups of the right size count.
    fn join_groups(&self, whole: &str, needed: bool) -> Option<String> {
        let groups = whole.split(|mark| self.thousands.contains(&mark)).collect::<Vec<_>>();
        let all_digits = groups.iter().all(|group| group.bytes().all(|byte| byte.is_ascii_digit()));
        let fits = match groups.as_slice() {
            [single] => !(needed && single.is_empty()),
            [first, inner @ .., last] => {
                let (most, size) = if self.indian_groups { (2, 2) } else { (3, 3) };
                (1..=most).contains(&first.len()) && inner.iter().all(|group| group.len() == size) && last.len() == 3
            }
            [] => false,
        };
        (all_digits && fits).then(|| groups.concat())
    }
}

/// Takes a currency off either end: a symbol, or a code of three letters.
fn strip_currency(text: &str) -> Option<&str> {
    let is_code = |code: &str| code.len() == 3 && code.bytes().all(|byte| byte.is_ascii_uppercase());
    if let Some(rest) = text.strip_prefix(is_currency_symbol) {
        return Some(rest.trim_start());
    }
    if let Some(rest) = text.strip_suffix(is_currency_symbol) {
        return Some(rest.trim_end());
    }
    if text.get(..3).is_some_and(is_code) {
        return text.get(3..).map(str::trim_start);
    }
    let at = text.len().checked_sub(3)?;
    text.get(at..).filter(|code| is_code(code))?;
    text.get(..at).map(str::trim_end)
}

/// The symbols of Unicode's category `Sc` that are in use.
fn is_currency_symbol(letter: char) -> bool {
    matches!(letter, '$' | '\u{a2}'..='\u{a5}' | '\u{20a0}'..='\u{20c0}' | '\u{e3f}' | '\u{fdfc}' | '\u{fe69}' | '\u{ff04}' | '\u{ffe0}' | '\u{ffe1}' | '\u{ffe5}' | '\u{ffe6}')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(format: &NumberFormat, cases: &[(&str, Option<&str>)]) {
        for (text, number) in cases {
            assert_eq!(format.parse(text).as_deref(), *number, "{text}");
        }
    }

    /// A locale, and what it makes of texts.
    type LocaleCase<'a> = (&'a str, &'a [(&'a str, Option<&'a str>)]);

    #[test]
    fn locales_name_the_marks() {
        let cases: &[LocaleCase<'_>] = &[
            (
                "de",
                &[
                    ("1.234,56", Some("1234.56")),
                    ("1.234", Some("1234")),
                    ("1,5", Some("1.5")),
                    ("-1.234.567", Some("-1234567")),
                ],
            ),
            (
                "de-DE",
                &[
                    ("1.23", None),
                    ("1234.5", None),
                    ("12.34,5", None),
                    (",5", Some("0.5")),
                    ("5,", None),
                    ("1.2345", None),
                ],
            ),
            ("en-US", &[("1,234.50", Some("1234.50")), ("1,000", Some("1000")), ("1.234,56", None), ("1,00", None)]),
            (
                "fr",
                &[
                    ("1\u{a0}234,5", Some("1234.5")),
                    ("1\u{202f}234", Some("1234")),
                    ("1 234", Some("1234")),
                    ("1.5", None),
                ],
            ),
            ("de-CH", &[("1'000.00", Some("1000.00")), ("1\u{2019}000", Some("1000")), ("1,5", None)]),
            ("fr-CH", &[("1'000.50", Some("1000.50")), ("1 000,50", Some("1000.50"))]),
            ("en-IN", &[("12,34,567.8", Some("1234567.8")), ("1,234", Some("1234")), ("123,456", None)]),
            ("pt-BR", &[("1.234,5", Some("1234.5"))]),
        ];
        for (locale, cases) in cases {
            check(&NumberFormat::for_locale(locale).unwrap(), cases);
        }
        assert!(NumberFormat::for_locale("xx").is_none() && NumberFormat::for_locale("").is_none());
    }

    #[test]
    fn signs_currencies_and_percent_are_read() {
        let format = NumberFormat {
            thousands: vec![','],
            currency: true,
            percent: true,
            brackets: true,
            trailing_minus: true,
            ..NumberFormat::default()
        };
        check(
            &format,
            &[
                ("$1,234.50", Some("1234.50")),
                ("-$5", Some("-5")),
                ("€ -12", Some("-12")),
                ("12.50 EUR", Some("12.50")),
                ("CHF 12", Some("12")),
                ("12%", Some("0.12")),
                ("-12.5 %", Some("-0.125")),
                ("(123.45)", Some("-123.45")),
                ("($1,000)", Some("-1000")),
                ("123-", Some("-123")),
                ("\u{2212}5", Some("-5")),
                ("+5", Some("5")),
                ("1.5E+05", Some("150000")),
                ("--5", None),
                ("(-5)", None),
                ("-5-", None),
                ("12%%", None),
                ("$5€", None),
                ("$", None),
                ("", None),
                ("-", None),
                ("12 345", None),
                ("NaN", None),
                ("0x10", None),
            ],
        );
        let plain = NumberFormat::default();
        check(
            &plain,
            &[("12%", None), ("$5", None), ("(5)", None), ("5-", None), ("1,000", None), ("1.5", Some("1.5"))],
        );
    }
}
