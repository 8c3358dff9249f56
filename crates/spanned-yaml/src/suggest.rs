//! Suggests the name that the author probably meant.

/// The choice closest to `name`, if it is close enough for a typing error.
pub fn closest_name<'a>(name: &str, choices: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let limit = (name.chars().count() / 3).clamp(1, 3);
    choices
        .into_iter()
        .map(|choice| (edit_distance(&name.to_lowercase(), &choice.to_lowercase()), choice))
        .filter(|(distance, choice)| *distance <= limit && *distance < choice.chars().count())
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, choice)| choice)
}

/// A hint for an unknown `name`: the closest choice, else all choices; empty if there are none.
pub fn suggestion_hint<'a>(name: &str, choices: impl IntoIterator<Item = &'a str> + Clone) -> String {
    if let Some(meant) = closest_name(name, choices.clone()) {
        return format!("did you mean `{meant}`?");
    }
    let names: Vec<_> = choices.into_iter().map(|choice| format!("`{choice}`")).collect();
    match names.len() {
        0 => String::new(),
        1 => format!("expected {}", names[0]),
        _ => format!("expected one of {}", names.join(", ")),
    }
}

/// Counts the edits between two words: insertion, deletion, change, or swap with the next character.
fn edit_distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    if a.len().abs_diff(b.len()) > 3 || a.len().max(b.len()) > 100 {
        return usize::MAX;
    }
    let mut rows: Vec<Vec<usize>> = vec![(0..=b.len()).collect()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let cost = usize::from(a[i - 1] != b[j - 1]);
            let mut best = (rows[i - 1][j - 1] + cost).min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn typing_errors_are_recognized_and_other_words_are_not() {
        let known = ["timeout", "retry", "queue"];
        assert_eq!(closest_name("timout", known), Some("timeout"));
        assert_eq!(closest_name("rerty", known), Some("retry"));
        assert_eq!(closest_name("Queue", known), Some("queue"));
        assert_eq!(closest_name("colour", known), None);
        assert_eq!(suggestion_hint("colour", known), "expected one of `timeout`, `retry`, `queue`");
    }
}
