//! Moves CSS rules into `style` attributes, because many mail programs ignore `<style>`. Rules that cannot move
//! (`@media`, `:hover`) stay in `<style>`, for the programs that read it.

use css_inline::{CSSInliner, InlineError};

/// Inlines the styles of a document. Nothing is loaded: a `<link>` to a stylesheet stays as it is.
pub(super) fn inline_styles(html: &str) -> Result<String, InlineError> {
    let options = CSSInliner::options().load_remote_stylesheets(false).keep_link_tags(true);
    // Some desktop mail programs read the width of tables from attributes only.
    options.remove_inlined_selectors(true).apply_width_attributes(true).build().inline(html)
}

#[cfg(test)]
mod tests {
    use super::inline_styles;

    #[test]
    fn rules_are_inlined_and_media_queries_stay() {
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
    fn no_stylesheet_is_loaded_and_broken_css_keeps_the_text() {
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
    fn escaped_text_stays_escaped() {
        let html = "<style>p { margin: 0 }</style><p title=\"&quot;&gt;&lt;b&gt;\">&lt;b&gt; &amp;lt; &#x27;</p>";
        let html = inline_styles(html).unwrap();
        assert!(html.contains(">&lt;b&gt; &amp;lt; '</p>"), "{html}");
        // Only a quote ends the value of an attribute.
        assert!(html.contains("title=\"&quot;><b>\""), "{html}");
    }
}
