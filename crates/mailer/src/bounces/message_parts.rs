//! The parts of a report message. It looks one level deep and never into the mail that came back, so that no nesting of
//! parts costs stack or time.

use afterload_core::work::count_steps;

/// The fields of a header, unfolded, with lower-case names.
#[derive(Default)]
pub(super) struct Fields(Vec<(String, String)>);

impl Fields {
    /// Returns the value of the first field with this name.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// Returns the values of all fields with this name.
    pub(super) fn get_all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The media type in lower case, without its parameters.
    pub(super) fn media_type(&self) -> String {
        let value = self.get("content-type").unwrap_or_default();
        value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
    }

    /// The value of a parameter of `Content-Type`.
    pub(super) fn media_type_param(&self, name: &str) -> Option<String> {
        let mut rest = self.get("content-type")?.split_once(';')?.1;
        loop {
            let (param, after) = rest.split_once('=')?;
            let after = after.trim_start();
            let (value, next) = match after.strip_prefix('"') {
                Some(quoted) => quoted.split_once('"')?,
                None => after.split_at(after.find(';').unwrap_or(after.len())),
            };
            if param.trim().eq_ignore_ascii_case(name) {
                return Some(value.trim_end().to_owned());
            }
            rest = next.trim_start().strip_prefix(';')?;
        }
    }
}

/// Lines without their ends.
fn split_lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    count_steps(text.len());
    text.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line))
}

/// Reads groups of fields, each ended by an empty line. Lines that are no fields are left out.
pub(super) fn read_groups(text: &[u8]) -> Vec<Fields> {
    let mut groups = vec![Fields::default()];
    for line in split_lines(text) {
        let text = String::from_utf8_lossy(line);
        if text.trim().is_empty() {
            groups.push(Fields::default());
            continue;
        }
        let Some(Fields(fields)) = groups.last_mut() else { continue };
        if text.starts_with([' ', '\t']) {
            if let Some((_, value)) = fields.last_mut() {
                value.push(' ');
                value.push_str(text.trim());
            }
        } else if let Some((name, value)) = text.split_once(':') {
            fields.push((name.trim().to_ascii_lowercase(), value.trim().to_owned()));
        }
    }
    groups.retain(|group| !group.is_empty());
    groups
}

/// Splits a message or a part at its first empty line. Returns the fields of the header, and the body.
pub(super) fn split_header(message: &[u8]) -> (Fields, &[u8]) {
    let mut end = 0;
    for line in message.split_inclusive(|byte| *byte == b'\n') {
        count_steps(line.len());
        if line.trim_ascii().is_empty() {
            let body = &message[end + line.len()..];
            let header = read_groups(&message[..end]).into_iter().next();
            return (header.unwrap_or_default(), body);
        }
        end += line.len();
    }
    (read_groups(message).into_iter().next().unwrap_or_default(), &[])
}

/// Splits the body of a multipart at its boundary. What stands before the first and behind the last one is no part.
pub(super) fn split_parts<'a>(body: &'a [u8], boundary: &str) -> Vec<&'a [u8]> {
    let (mut parts, mut start, mut at) = (Vec::new(), None, 0);
    for line in body.split_inclusive(|byte| *byte == b'\n') {
        count_steps(line.len());
        let delimiter =
            line.trim_ascii_end().strip_prefix(b"--").and_then(|rest| rest.strip_prefix(boundary.as_bytes()));
        if let Some(end @ (b"" | b"--")) = delimiter {
            if let Some(start) = start {
                parts.push(&body[start..at]);
            }
            if !end.is_empty() {
                return parts;
            }
            start = Some(at + line.len());
        }
        at += line.len();
    }
    // A cut message still has its last part.
    parts.extend(start.map(|start| &body[start..]));
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_may_be_quoted_and_in_any_order() {
        let param = |value: &str, name: &str| {
            let header = format!("Content-Type: {value}\r\n\r\n");
            split_header(header.as_bytes()).0.media_type_param(name)
        };
        let both = "multipart/report; report-type=delivery-status;\r\n\tboundary=\"a; b=c\"";
        assert_eq!(param(both, "boundary").as_deref(), Some("a; b=c"));
        assert_eq!(param(both, "Report-Type").as_deref(), Some("delivery-status"));
        assert_eq!(param("multipart/report; boundary=x", "boundary").as_deref(), Some("x"));
        for bad in ["multipart/report", "multipart/report;", "multipart/report; boundary", "a; boundary=\"x"] {
            assert_eq!(param(bad, "boundary"), None, "{bad}");
        }
    }

    #[test]
    fn parts_end_at_their_boundary() {
        let body = b"before\r\n--b\r\none\r\n--bb\r\n--b \r\n\r\ntwo\r\n--b--\r\nbehind\r\n--b\r\nno";
        assert_eq!(split_parts(body, "b"), [&b"one\r\n--bb\r\n"[..], b"\r\ntwo\r\n"]);
        assert_eq!(split_parts(b"--b\nx\ny", "b"), [b"x\ny"]);
        assert!(split_parts(b"nothing", "b").is_empty());
    }
}
