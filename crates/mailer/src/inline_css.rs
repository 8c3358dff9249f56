//! Styles where mail programs look for them. Many read no `<style>`, so each of its rules is written into the elements that
//! it means; what cannot stand there (`@media`, `:hover`) stays in the `<style>`, for those that do.

use css_inline::{CSSInliner, InlineError};

/// The document with its styles inlined. Nothing is loaded: a `<link>` to a stylesheet stays as it is.
pub(super) fn inline_styles(html: &str) -> Result<String, InlineError> {
    let options = CSSInliner::options().load_remote_stylesheets(false).keep_link_tags(true);
    // Some programs of the desktop know widths of tables only as attributes.
    options.remove_inlined_selectors(true).apply_width_attributes(true).build().inline(html)
}

#[cfg(test)]
mod tests {
    use super::inline_styles;

    #[test]
    fn rules_go_to_their_elements_and_what_cannot_stays() {
        let html = "<!DOCTYPE html><html><head><style>p { color: red; margin: 0 } .b { margin: 1px }\n\
                    a:hover { color: blue }\n@media (prefers-color-scheme: dark) { p { color: white !important } }</style>\
                    </head><body><p>one</p><p class=\"b\" style=\"padding: 2px\">two</p><a href=\"x\">x</a></body></html>";
        let html = inline_styles(html).unwrap();
        let squeezed = html.replace([' ', '\n'], "");
        assert!(html.starts_with("<!DOCTYPE html>"), "{html}");
        assert!(squeezed.contains("<pstyle=\"color:red;margin:0"), "{html}");
        let two = squeezed.split("class=\"b\"").nth(1).unwrap().split('>').next().unwrap();
        assert!(["color:red", "margin:1px", "padding:2px"].iter().all(|rule| two.contains(rule)), "{html}");
        let kept = squeezed.split("<style>").nth(1).unwrap().split("</style>").next().unwrap();
        assert!(
            kept.contains("a:hover{") && kept.contains("@media(prefers-color-scheme:dark){p{color:white!important")
        );
        assert!(!kept.contains("color:red"), "{html}");
    }

    #[test]
    fn nothing_is_loaded_and_broken_styles_break_nothing() {
        let link = "<link rel=\"stylesheet\" href=\"file:///etc/hosts\">";
        let far = "<link rel=\"stylesheet\" href=\"http://127.0.0.1:9/x.css\">";
        let html = inline_styles(&format!("<head>{link}{far}</head><p>x</p>")).unwrap();
        assert!(html.contains(link) && html.contains(far) && html.contains("<p>x</p>"), "{html}");
        for style in ["p {", "}}}", "p { color", "@media {", "p:::x { color: red }", "{ } { } <"] {
            let html = inline_styles(&format!("<style>{style}</style><p>text</p>")).unwrap();
            assert!(html.contains(">text</p>"), "{style}: {html}");
        }
    }

    #[test]
    fn what_was_escaped_stays_escaped() {
        let html = "<style>p { margin: 0 }</style><p title=\"&quot;&gt;&lt;b&gt;\">&lt;b&gt; &amp;lt; &#x27;</p>";
        let html = inline_styles(html).unwrap();
        assert!(html.contains(">&lt;b&gt; &amp;lt; '</p>"), "{html}");
        // Only a quote ends the value of an attribute.
        assert!(html.contains("title=\"&quot;><b>\""), "{html}");
    }
}
