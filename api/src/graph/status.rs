//! How states look: an icon, an urgency and colours.
//!
//! Owns the one table from which every format takes its marks. It does not own the
//! states: one that is unknown here is drawn with a question mark and its own words.

/// How a state is drawn.
#[derive(Debug)]
pub(super) struct Look {
    /// The state in lower snake case.
    pub(super) state: &'static str,
    /// A character that common fonts have and no font turns into an emoji.
    pub(super) icon: char,
    /// Ink and fill on a light ground; ink has a contrast of 4.5 or more on its fill.
    pub(super) light: (&'static str, &'static str),
    /// Ink and fill on a dark ground.
    pub(super) dark: (&'static str, &'static str),
}

const fn look(
    state: &'static str,
    icon: char,
    light: (&'static str, &'static str),
    dark: (&'static str, &'static str),
) -> Look {
    Look { state, icon, light, dark }
}

const RED: [(&str, &str); 2] = [("#b91c1c", "#fef2f2"), ("#ff8f87", "#33141a")];
const ORANGE: [(&str, &str); 2] = [("#9a3f06", "#fff4ea"), ("#f5a45f", "#2f1d0d")];
const VIOLET: [(&str, &str); 2] = [("#6d35c9", "#f7f2ff"), ("#c6a4ff", "#241a38")];
const BLUE: [(&str, &str); 2] = [("#0757b8", "#eaf3ff"), ("#79b8ff", "#10233c")];
const YELLOW: [(&str, &str); 2] = [("#7a5200", "#fff8df"), ("#e3b341", "#2b220c")];
const GREEN: [(&str, &str); 2] = [("#12692c", "#edfaf0"), ("#5bd07a", "#10281a")];
const GREY: [(&str, &str); 2] = [("#4b5563", "#f5f6f8"), ("#a9b4c0", "#1b212a")];

/// The looks of all states, the most urgent first.
///
/// A box that stands for many steps shows the most urgent state among them.
pub(super) const LOOKS: [Look; 13] = [
    look("failed", '✗', RED[0], RED[1]),
    look("quarantined", '!', VIOLET[0], VIOLET[1]),
    look("upstream_failed", '⊘', ORANGE[0], ORANGE[1]),
    look("running", '►', BLUE[0], BLUE[1]),
    look("paused", '‖', YELLOW[0], YELLOW[1]),
    look("waiting", '◔', YELLOW[0], YELLOW[1]),
    look("ready", '○', GREY[0], GREY[1]),
    look("pending", '·', GREY[0], GREY[1]),
    look("blocked", '·', GREY[0], GREY[1]),
    look("cancelled", '■', GREY[0], GREY[1]),
    look("succeeded", '✓', GREEN[0], GREEN[1]),
    look("skipped", '»', GREY[0], GREY[1]),
    OTHER,
];

/// The look of a state that this module does not know.
const OTHER: Look = look("other", '?', GREY[0], GREY[1]);

/// Finds the look of a state.
pub(super) fn of(state: &str) -> &'static Look {
    let found = LOOKS.iter().find(|look| look.state == state);
    found.unwrap_or(&LOOKS[LOOKS.len() - 1])
}

/// The place of a state in the order of urgency; the smallest comes first.
pub(super) fn urgency(state: &str) -> usize {
    let found = LOOKS.iter().position(|look| look.state == state);
    found.unwrap_or(LOOKS.len())
}
