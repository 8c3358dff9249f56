//! The status of runs and steps: by color, by sign and by word.

/// A status as a page shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Chip {
    /// The class of the stylesheet.
    pub class: &'static str,
    pub sign: &'static str,
    pub word: &'static str,
}

impl Chip {
    /// The chip of a status of the API, for runs and for steps.
    pub(crate) fn new(status: &'static str) -> Self {
        let (class, sign) = match status {
            "succeeded" => ("ok", "✓"),
            "failed" | "quarantined" => ("bad", "✕"),
            "running" => ("run", "●"),
            "queued" | "retrying" | "suspended" => ("wait", "◷"),
            "cancelled" => ("off", "■"),
            _ => ("off", "○"),
        };
        Self { class, sign, word: status }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_has_its_word() {
        for status in ["queued", "running", "succeeded", "failed", "cancelled"] {
            assert_ne!(Chip::new(status).sign, Chip::new("skipped").sign, "{status}");
            assert_eq!(Chip::new(status).word, status);
        }
    }
}
