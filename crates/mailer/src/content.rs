//! The content of a mail.

use minijinja::HtmlEscape;

use super::inline_css::inline_styles;
use super::plain_text::html_to_text;
use crate::codes;
use afterload_core::error::{Error, Result};

/// The content of a mail: a subject, a text body and an optional HTML body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MailContent {
    /// The subject; control characters become spaces.
    pub subject: String,
    /// The body as text.
    pub text: String,
    /// The body as HTML.
    pub html: Option<String>,
}

impl MailContent {
    /// Builds the content from texts instead of a template. `links` are labels with their URLs, which both bodies list. Without
    /// a `body`, the text is that of the HTML.
    ///
    /// # Errors
    /// `mail_invalid` if the styles of the HTML cannot be inlined.
    pub fn from_texts(
        subject: String,
        body: Option<String>,
        html: Option<String>,
        links: &[(String, String)],
    ) -> Result<Self> {
        let html = html.map(|html| inline_styles(&add_html_links(html, links))).transpose().map_err(|error| {
            Error::new(codes::MAIL_INVALID, format!("the styles of the HTML cannot be inlined: {error}"))
        })?;
        let text = match (body, &html) {
            (None, Some(html)) => html_to_text(html),
            (body, _) => {
                let lines = links.iter().map(|(label, url)| format!("\n\n{label}: {url}")).collect::<String>();
                format!("{}{lines}\n", body.unwrap_or_default().trim_end())
            }
        };
        Ok(Self { subject, text, html })
    }
}

/// Adds a paragraph for each link at the end of the body.
fn add_html_links(mut html: String, links: &[(String, String)]) -> String {
    let paragraph =
        |(label, url): &(String, String)| format!("<p><a href=\"{}\">{}</a></p>\n", HtmlEscape(url), HtmlEscape(label));
    let paragraphs = links.iter().map(paragraph).collect::<String>();
    let end = html.to_ascii_lowercase().rfind("</body").unwrap_or(html.len());
    html.insert_str(end, &paragraphs);
    html
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(body: Option<&str>, html: Option<&str>) -> MailContent {
        let links = [("rejected <rows>".to_owned(), "https://a.example/d/1?a=1&b=2".to_owned())];
        MailContent::from_texts("S".into(), body.map(str::to_owned), html.map(str::to_owned), &links).unwrap()
    }

    #[test]
    fn links_stand_in_both_bodies() {
        let found = content(Some("Text\n\n"), Some("<html><body><p>Hi</p></BODY></html>"));
        assert_eq!(found.text, "Text\n\nrejected <rows>: https://a.example/d/1?a=1&b=2\n");
        let html = found.html.unwrap();
        let link = "<p>Hi</p><p><a href=\"https://a.example/d/1?a=1&amp;b=2\">rejected &lt;rows&gt;</a></p>";
        assert!(html.contains(link) && html.find(link) < html.find("</body>"), "{html}");
    }

    #[test]
    fn text_is_made_from_html_and_styles_are_inlined() {
        let found = content(None, Some("<style>p { color: red }</style><p>Dear &lt;Ada&gt;,</p><p>done</p>"));
        assert_eq!(found.text, "Dear <Ada>,\n\ndone\n\nrejected <rows>: https://a.example/d/1?a=1&b=2\n");
        assert!(found.html.unwrap().contains("<p style=\"color: red"));
        let found = content(Some("Text"), None);
        assert_eq!(found.html, None);
    }
}
