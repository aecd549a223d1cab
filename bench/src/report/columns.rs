//! Columns of text for a terminal: the first to the left, the others to the right.

use anstyle::Style;

/// Heads of columns and the sums under them.
pub(crate) const HEAD: Style = Style::new().bold();
/// What names a figure.
pub(super) const NAME: Style = Style::new().dimmed();

/// Rows under a head; every row is as long as the head.
pub(crate) struct Columns {
    rows: Vec<Vec<Cell>>,
}

/// Text and how it looks.
pub(crate) struct Cell {
    text: String,
    style: Style,
}

impl From<String> for Cell {
    fn from(text: String) -> Cell {
        Cell { text, style: Style::new() }
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Cell {
        Cell::from(text.to_owned())
    }
}

impl Cell {
    /// The same in this style.
    pub(crate) fn styled(self, style: Style) -> Cell {
        Cell { style, ..self }
    }
}

impl Columns {
    /// A table with these heads.
    pub(crate) fn new(heads: &[&str]) -> Columns {
        let head = heads.iter().map(|head| Cell::from(*head).styled(NAME)).collect();
        Columns { rows: vec![head] }
    }

    /// One more row.
    pub(crate) fn row(&mut self, cells: Vec<Cell>) {
        assert_eq!(cells.len(), self.rows[0].len(), "a cell for each column");
        self.rows.push(cells);
    }

    /// Lines indented by two, with ANSI styles.
    pub(crate) fn text(&self) -> String {
        let width = |column: usize| {
            let cells = self.rows.iter().map(|row| row[column].text.chars().count());
            cells.max().unwrap_or_default()
        };
        let widths: Vec<usize> = (0..self.rows[0].len()).map(width).collect();
        let mut text = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
                let Cell { text, style } = cell;
                // The style is put around the cell once its width is known.
                let padding = " ".repeat(width - text.chars().count());
                let between = "  ";
                match column {
                    0 => line.push_str(&format!("{between}{style}{text}{style:#}{padding}")),
                    _ => line.push_str(&format!("{between}{padding}{style}{text}{style:#}")),
                }
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use anstyle::AnsiColor;

    use super::*;

    #[test]
    fn styles_do_not_count_as_width() {
        let mut columns = Columns::new(&["name", "µs"]);
        let red = AnsiColor::Red.on_default();
        columns.row(vec!["a".into(), Cell::from("1,234").styled(red)]);
        columns.row(vec!["longer".into(), "5".into()]);
        let text = columns.text();
        assert!(text.contains(&format!("{red}1,234{red:#}")), "{text:?}");
        let plain = anstream::adapter::strip_str(&text).to_string();
        assert_eq!(plain, "  name       µs\n  a       1,234\n  longer      5\n");
    }
}
