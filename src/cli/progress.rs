//! Shows the progress of a run on the terminal: live bars, or plain lines if the output is not a terminal.

use std::collections::HashMap;
use std::io::IsTerminal;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde_json::Value;

use super::stdout::print_line;

const STEP_BAR_TEMPLATE: &str = "  {prefix:<10} {bar:32} {percent:>3}%  {msg}";

/// One bar per step, or one line per change.
pub(super) struct ProgressRenderer {
    live: Option<MultiProgress>,
    bars: HashMap<String, ProgressBar>,
    last_lines: HashMap<String, String>,
}

impl ProgressRenderer {
    pub(super) fn new() -> Self {
        let live = std::io::stdout()
            .is_terminal()
            .then(|| MultiProgress::with_draw_target(indicatif::ProgressDrawTarget::stdout()));
        Self { live, bars: HashMap::new(), last_lines: HashMap::new() }
    }

    /// Shows the progress of every step that has started.
    pub(super) fn render_run(&mut self, run: &Value) {
        let steps = run["steps"].as_array().into_iter().flatten();
        for step in steps.filter(|step| !matches!(step["status"].as_str(), Some("waiting" | "skipped"))) {
            let (id, status) = (step["id"].as_str().unwrap_or_default(), step["status"].as_str().unwrap_or_default());
            let percent = match status {
                "succeeded" => 100,
                _ => step["progress"]["percent"].as_f64().unwrap_or_default() as u64,
            };
            let text = match (status, step["progress"]["message"].as_str()) {
                ("running", Some(message)) => message.to_owned(),
                (_, Some(message)) => format!("{status}, {message}"),
                (_, None) => status.to_owned(),
            };
            match &self.live {
                Some(live) => update_bar(&mut self.bars, live, id, percent, text),
                None => print_step_line(&mut self.last_lines, id, percent, &text),
            }
        }
    }

    /// Removes the bars from the screen.
    pub(super) fn clear_screen(&self) {
        self.bars.values().for_each(ProgressBar::finish_and_clear);
    }

    /// Leaves the last state on the screen.
    pub(super) fn finish(&self) {
        self.bars.values().for_each(ProgressBar::abandon);
    }
}

fn update_bar(bars: &mut HashMap<String, ProgressBar>, live: &MultiProgress, id: &str, percent: u64, text: String) {
    let bar = bars.entry(id.to_owned()).or_insert_with(|| {
        let style = ProgressStyle::with_template(STEP_BAR_TEMPLATE).unwrap_or_else(|_| ProgressStyle::default_bar());
        live.add(ProgressBar::new(100).with_style(style).with_prefix(id.to_owned()))
    });
    bar.set_position(percent);
    bar.set_message(text);
}

fn print_step_line(last_lines: &mut HashMap<String, String>, id: &str, percent: u64, text: &str) {
    let line = format!("  {id}: {percent}% {text}");
    if last_lines.get(id) != Some(&line) {
        print_line!("{line}");
        last_lines.insert(id.to_owned(), line);
    }
}
