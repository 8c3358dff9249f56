//! Who looks at a page.

use afterload_server::api::Caller;

/// The holder of a session.
pub(crate) struct Viewer {
    /// The token of the session, which calls of the API bring.
    pub token: String,
    /// What the session permits.
    pub caller: Caller,
}

impl Viewer {
    /// The role in one word.
    pub(crate) fn role(&self) -> &'static str {
        if self.caller.is_admin() {
            "admin"
        } else if self.caller.can_write_any() {
            "operator"
        } else {
            "viewer"
        }
    }
}
