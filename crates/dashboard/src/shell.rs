//! The frame of every page: title, navigation, sign-out, and a sentence about what was just done.

use crate::assets::{Assets, assets};
use crate::viewer::Viewer;

/// What the frame of a page shows.
pub(crate) struct Shell {
    pub title: String,
    pub style_url: String,
    pub script_url: String,
    pub icon_url: String,
    pub nav: Vec<NavLink>,
    /// `None` for pages without a session.
    pub role: Option<&'static str>,
    pub notice: Option<&'static str>,
    /// True if the page follows its data.
    pub is_live: bool,
}

/// A link of the navigation.
pub(crate) struct NavLink {
    pub label: &'static str,
    pub href: &'static str,
    pub is_current: bool,
}

/// The part of the dashboard that a page belongs to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    Now,
    Runs,
    Pipelines,
    /// Sign-in and errors.
    Other,
}

const NAV: [(&str, &str, Part); 3] =
    [("Now", "/ui/", Part::Now), ("Runs", "/ui/runs", Part::Runs), ("Pipelines", "/ui/pipelines", Part::Pipelines)];

/// What a page says after an action, by the word in its address.
const NOTICES: [(&str, &str); 9] = [
    ("paused", "Paused. What runs goes on to its end, and nothing new starts."),
    ("resumed", "Resumed."),
    ("cancelled", "The run is asked to stop. Its `finally` steps still run."),
    ("retried", "The run goes on from what failed."),
    ("started", "The run has started."),
    ("runs-cancelled", "The selected runs are asked to stop."),
    ("runs-retried", "The selected runs go on from what failed."),
    ("some-refused", "Some of the selected runs could not be changed. They had ended, or had not failed."),
    ("none-selected", "No run was selected."),
];

impl Shell {
    pub(crate) fn new(title: impl Into<String>, viewer: Option<&Viewer>, part: Part) -> Self {
        let Assets { style, script, icon } = assets();
        let nav = NAV.map(|(label, href, of)| NavLink { label, href, is_current: of == part });
        Self {
            title: title.into(),
            style_url: style.url(),
            script_url: script.url(),
            icon_url: icon.url(),
            nav: if viewer.is_some() { nav.into() } else { Vec::new() },
            role: viewer.map(Viewer::role),
            notice: None,
            is_live: false,
        }
    }

    /// A page that follows its data. `notice` is the word about what was just done.
    pub(crate) fn live(mut self, notice: Option<&str>) -> Self {
        self.is_live = true;
        self.notice = NOTICES.iter().find(|(word, _)| Some(*word) == notice).map(|(_, text)| *text);
        self
    }
}
