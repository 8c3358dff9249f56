//! The names of the columns of a sheet.

/// Returns `A` to `Z`, then `AA` and so on.
pub fn column_letters(mut index: usize) -> String {
    let mut letters = Vec::new();
    loop {
        letters.insert(0, b'A' + (index % 26) as u8);
        match index / 26 {
            0 => return String::from_utf8_lossy(&letters).into_owned(),
            rest => index = rest - 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn column_letters_match_spreadsheets() {
        let all: Vec<String> = [0, 25, 26, 51, 52, 701, 702, 16_383].map(column_letters).into();
        assert_eq!(all, ["A", "Z", "AA", "AZ", "BA", "ZZ", "AAA", "XFD"]);
    }
}
