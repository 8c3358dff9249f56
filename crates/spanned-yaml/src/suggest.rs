//! Suggests the name that the author probably meant.

use afterload_core::work::count_steps;

/// A longer name is no typing error. The distance of two names takes the product of their lengths.
const MAX_NAME_CHARS: usize = 100;
/// How many choices a hint lists.
const MAX_LISTED_CHOICES: usize = 40;

/// The choice closest to `name`, if it is close enough for a typing error.
pub fn closest_name<'a>(name: &str, choices: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let length = name.chars().take(MAX_NAME_CHARS + 1).count();
    if length > MAX_NAME_CHARS {
        return None;
    }
    let (limit, name) = ((length / 3).clamp(1, 3), name.to_lowercase());
    choices
        .into_iter()
        .map(|choice| (edit_distance(&name, &choice.to_lowercase()), choice))
        .filter(|(distance, choice)| *distance <= limit && *distance < choice.chars().count())
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, choice)| choice)
}

/// A hint for an unknown `name`: the closest choice, else all choices; empty if there are none.
pub fn suggestion_hint<'a>(name: &str, choices: impl IntoIterator<Item = &'a str> + Clone) -> String {
    if let Some(meant) = closest_name(name, choices.clone()) {
        return format!("did you mean `{meant}`?");
    }
    let mut choices = choices.into_iter();
    let names: Vec<_> = choices.by_ref().take(MAX_LISTED_CHOICES).map(|choice| format!("`{choice}`")).collect();
    match (names.len(), choices.count()) {
        (0, _) => String::new(),
        (1, _) => format!("expected {}", names[0]),
        (_, 0) => format!("expected one of {}", names.join(", ")),
        (_, others) => format!("expected one of {}, or one of {others} others", names.join(", ")),
    }
}

/// Counts the edits between two words: insertion, deletion, change, or swap with the next character.
fn edit_distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    count_steps(a.len() + b.len());
    if a.len().abs_diff(b.len()) > 3 || a.len().max(b.len()) > MAX_NAME_CHARS {
        return usize::MAX;
    }
    let mut rows: Vec<Vec<usize>> = vec![(0..=b.len()).collect()];
    for i in 1..=a.len() {
        count_steps(b.len());
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
    use afterload_core::work;

    #[test]
    fn typing_errors_are_recognized_and_other_words_are_not() {
        let known = ["timeout", "retry", "queue"];
        assert_eq!(closest_name("timout", known), Some("timeout"));
        assert_eq!(closest_name("rerty", known), Some("retry"));
        assert_eq!(closest_name("Queue", known), Some("queue"));
        assert_eq!(closest_name("colour", known), None);
        assert_eq!(suggestion_hint("colour", known), "expected one of `timeout`, `retry`, `queue`");
    }

    #[test]
    fn long_names_and_many_choices_stay_cheap() {
        let long = "x".repeat(MAX_NAME_CHARS + 1);
        assert_eq!(closest_name(&long, [&long[1..]]), None);
        work::assert_linear(
            "choices",
            |count| "name ".repeat(count),
            |text| {
                closest_name("nmae", text.split(' '));
            },
        );
        work::assert_linear(
            "name",
            |count| "x".repeat(count),
            |text| {
                work::count_steps(1);
                closest_name(text, ["xxxxxxxxxx"; 100]);
            },
        );
        let choices: Vec<_> = (0..MAX_LISTED_CHOICES + 2).map(|number| number.to_string()).collect();
        let hint = suggestion_hint("colour", choices.iter().map(String::as_str));
        assert!(hint.ends_with("`39`, or one of 2 others"), "{hint}");
    }
}
