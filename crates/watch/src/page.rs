//! The page: one HTML file with its style, its program and the library that draws the charts.

use serde_json::Value;

const PAGE: &str = include_str!("../assets/page.html");
const STYLE: &str = include_str!("../assets/page.css");
const PROGRAM: &str = include_str!("../assets/page.js");
const UPLOT: &str = include_str!("../assets/uPlot.iife.min.js");
const UPLOT_STYLE: &str = include_str!("../assets/uPlot.min.css");

/// The page with its data. Where they say that they are live, it asks its server for later ones.
pub(crate) fn page(data: &Value) -> String {
    // `</script>` in a name must not end the script; `<` only stands in texts of JSON, where it can be written so.
    let data = data.to_string().replace('<', "\\u003c");
    PAGE.replace("/*uplot.css*/", UPLOT_STYLE)
        .replace("/*page.css*/", STYLE)
        .replace("/*uplot.js*/", UPLOT)
        .replace("/*page.js*/", PROGRAM)
        .replace("/*data*/", &data)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_page_is_whole_and_names_cannot_leave_their_place() {
        let text = page(&json!({ "runs": [{ "name": "</script><b>" }] }));
        assert!(!text.contains("/*page.js*/") && !text.contains("</script><b>") && text.contains("\\u003c/script>"));
        // Nothing is fetched from anywhere.
        assert!(!PAGE.contains("http") && !PROGRAM.contains("http") && !STYLE.contains("http"));
    }
}
