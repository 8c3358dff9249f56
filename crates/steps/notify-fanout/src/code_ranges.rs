//! Finds the code in a text, in which nobody is mentioned: HTML elements, and fences and spans of Markdown.
//!
//! No search starts over at each place: the work grows with the text and no faster.

use std::collections::HashMap;
use std::ops::Range;

use afterload_core::work::{count_steps, search_text};

/// The HTML elements that hold code.
const CODE_ELEMENTS: [&str; 2] = ["code", "pre"];

/// Replaces code by spaces.
pub(super) fn blank_code(text: &str) -> String {
    let text = blank_ranges(text, &code_element_ranges(text));
    let text = blank_ranges(&text, &fenced_ranges(&text));
    blank_ranges(&text, &code_span_ranges(&text))
}

/// Keeps the line breaks, because the later searches depend on them.
fn blank_ranges(text: &str, ranges: &[Range<usize>]) -> String {
    let (mut out, mut at) = (String::with_capacity(text.len()), 0);
    for range in ranges {
        out.push_str(&text[at..range.start]);
        out.extend(text[range.clone()].chars().map(|letter| if letter == '\n' { '\n' } else { ' ' }));
        at = range.end;
    }
    out.push_str(&text[at..]);
    out
}

/// Returns the elements from their opening to their closing tag.
fn code_element_ranges(text: &str) -> Vec<Range<usize>> {
    let (mut ranges, mut at) = (Vec::new(), 0);
    // A closing tag that does not come after one place does not come after any later place either.
    let mut is_unclosed = [false; CODE_ELEMENTS.len()];
    while let Some(found) = search_text(&text[at..], "<") {
        let start = at + found;
        at = start + 1;
        let opened = CODE_ELEMENTS.iter().position(|name| {
            let rest = strip_prefix_ignore_case(&text[at..], name);
            rest.is_some_and(|rest| rest.starts_with(|next: char| next == '>' || next.is_whitespace()))
        });
        let Some(element) = opened.filter(|element| !is_unclosed[*element]) else { continue };
        let Some(length) = search_text(&text[at..], ">") else { break };
        match find_closing_tag(text, at + length + 1, CODE_ELEMENTS[element]) {
            Some(end) => {
                ranges.push(start..end);
                at = end;
            }
            None => is_unclosed[element] = true,
        }
    }
    ranges
}

/// Returns the end of the first closing tag of this element after `at`.
fn find_closing_tag(text: &str, mut at: usize, name: &str) -> Option<usize> {
    while let Some(found) = search_text(&text[at..], "</") {
        at += found + 2;
        let Some(rest) = strip_prefix_ignore_case(&text[at..], name) else { continue };
        let end = rest.trim_start();
        count_steps(rest.len() - end.len());
        if end.starts_with('>') {
            return Some(text.len() - end.len() + 1);
        }
    }
    None
}

fn strip_prefix_ignore_case<'a>(text: &'a str, prefix: &str) -> Option<&'a str> {
    let start = text.get(..prefix.len())?;
    start.eq_ignore_ascii_case(prefix).then(|| &text[prefix.len()..])
}

/// Returns the lines between fences of backticks or tildes, also in quotations. An unclosed fence extends to the end.
fn fenced_ranges(text: &str) -> Vec<Range<usize>> {
    let (mut ranges, mut open, mut at) = (Vec::new(), None::<(char, usize, usize)>, 0);
    for line in text.split_inclusive('\n') {
        count_steps(line.len());
        let content = line.trim_start_matches([' ', '>']).trim_end();
        let sign = content.chars().next().filter(|sign| ['`', '~'].contains(sign));
        let length = sign.map_or(0, |sign| content.chars().take_while(|letter| *letter == sign).count());
        let rest = &content[length..];
        match (open, sign) {
            (None, Some(sign)) if length >= 3 && !(sign == '`' && rest.contains('`')) => {
                open = Some((sign, length, at));
            }
            (Some((opened, least, start)), Some(sign)) if sign == opened && length >= least && rest.is_empty() => {
                ranges.push(start..at + line.len());
                open = None;
            }
            _ => {}
        }
        at += line.len();
    }
    ranges.extend(open.map(|(_, _, start)| start..text.len()));
    ranges
}

/// Returns the spans between equally long runs of backticks. A span does not cross an empty line.
fn code_span_ranges(text: &str) -> Vec<Range<usize>> {
    let (bytes, runs) = (text.as_bytes(), BacktickRuns::find_in(text));
    let (mut ranges, mut at) = (Vec::new(), 0);
    while at < bytes.len() {
        count_steps(1);
        match bytes[at] {
            b'\\' => at += 2,
            b'`' => {
                let length = count_backticks(&bytes[at..]);
                let end = runs.find_closing(at + length, length);
                ranges.extend(end.map(|end| at..end));
                at = end.unwrap_or(at + length);
            }
            _ => at += 1,
        }
    }
    ranges
}

fn count_backticks(bytes: &[u8]) -> usize {
    let length = bytes.iter().take_while(|byte| **byte == b'`').count();
    count_steps(length);
    length
}

/// The places of a text that decide where spans end.
struct BacktickRuns {
    /// The starts of the runs of each length, in text order.
    starts: HashMap<usize, Vec<usize>>,
    /// The starts of empty lines, in text order.
    empty_lines: Vec<usize>,
}

impl BacktickRuns {
    fn find_in(text: &str) -> Self {
        let bytes = text.as_bytes();
        let mut runs = Self { starts: HashMap::new(), empty_lines: Vec::new() };
        let mut at = 0;
        while at < bytes.len() {
            count_steps(1);
            match bytes[at] {
                b'`' => {
                    let length = count_backticks(&bytes[at..]);
                    runs.starts.entry(length).or_default().push(at);
                    at += length;
                }
                byte => {
                    if byte == b'\n' && bytes.get(at + 1) == Some(&b'\n') {
                        runs.empty_lines.push(at);
                    }
                    at += 1;
                }
            }
        }
        runs
    }

    /// Returns the end of the next run of `length` backticks from `at`, if no empty line comes before it.
    fn find_closing(&self, at: usize, length: usize) -> Option<usize> {
        let start = first_from(self.starts.get(&length)?, at)?;
        let is_same_paragraph = first_from(&self.empty_lines, at).is_none_or(|empty_line| start < empty_line);
        is_same_paragraph.then_some(start + length)
    }
}

/// The first of the sorted places that is not before `at`.
fn first_from(places: &[usize], at: usize) -> Option<usize> {
    places.get(places.partition_point(|place| *place < at)).copied()
}
