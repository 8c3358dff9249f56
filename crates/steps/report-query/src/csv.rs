//! CSV: RFC 4180 with `\n`, UTF-8. Null is an empty field, an empty text is `""`.

use super::columns::Shape;
use afterload_tabular::formula::is_formula;
use afterload_target_db::Sort;

const fn is_special(byte: u8) -> bool {
    (byte == b',') | (byte == b'"') | (byte == b'\n') | (byte == b'\r')
}

/// Which bytes need quotes around their field.
const SPECIAL: [bool; 256] = {
    let (mut special, mut byte) = ([false; 256], 0);
    while byte < special.len() {
        special[byte] = is_special(byte as u8);
        byte += 1;
    }
    special
};

/// Whether a field needs quotes around it. With no way out between them, sixteen bytes are looked at together.
fn needs_quotes(value: &[u8]) -> bool {
    let (whole, rest) = value.as_chunks::<16>();
    whole.iter().any(|bytes| bytes.iter().fold(false, |any, byte| any | is_special(*byte)))
        || rest.iter().any(|byte| SPECIAL[usize::from(*byte)])
}

/// Writes the header.
pub fn header(shapes: &[Shape], out: &mut Vec<u8>) {
    for (column, shape) in shapes.iter().enumerate() {
        if column > 0 {
            out.push(b',');
        }
        text(shape.title.as_bytes(), out);
    }
    out.push(b'\n');
}

/// Writes a cell.
pub fn cell(shape: &Shape, cell: Option<(Sort, &[u8])>, scratch: &mut Vec<u8>, out: &mut Vec<u8>) {
    let Some((sort, value)) = cell else { return };
    if let Some(format) = &shape.format {
        scratch.clear();
        let shown = match sort {
            Sort::Exact | Sort::Float => format.number(value, scratch),
            Sort::Text | Sort::Date | Sort::Moment => format.moment(value, scratch),
            Sort::Bool | Sort::Json => false,
        };
        if shown {
            return quoted(scratch, false, out);
        }
    }
    match sort {
        Sort::Text | Sort::Json => text(value, out),
        // Nothing in them could be taken for something else.
        Sort::Exact | Sort::Float | Sort::Bool | Sort::Date | Sort::Moment => out.extend_from_slice(value),
    }
}

fn text(value: &[u8], out: &mut Vec<u8>) {
    match value.is_empty() {
        true => out.extend_from_slice(b"\"\""),
        false => quoted(value, is_formula(value), out),
    }
}

fn quoted(value: &[u8], guard: bool, out: &mut Vec<u8>) {
    let special = needs_quotes(value);
    if special {
        out.push(b'"');
    }
    if guard {
        out.push(b'\'');
    }
    match special {
        false => out.extend_from_slice(value),
        true => {
            for byte in value {
                if *byte == b'"' {
                    out.push(b'"');
                }
                out.push(*byte);
            }
            out.push(b'"');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::needs_quotes;

    #[test]
    fn quotes_are_needed_wherever_the_byte_stands() {
        for length in 0..40 {
            let plain = vec![b'x'; length];
            assert!(!needs_quotes(&plain));
            for (at, byte) in (0..length).flat_map(|at| b",\"\n\r".map(|byte| (at, byte))) {
                let mut value = plain.clone();
                value[at] = byte;
                assert!(needs_quotes(&value), "{byte} at {at} of {length}");
            }
        }
    }
}
