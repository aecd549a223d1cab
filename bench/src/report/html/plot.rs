//! A plot of series over common places, as inline SVG.
//!
//! Colours are classes, so that the page's style decides them for light and dark. What the
//! pointer shows is data in an attribute; without the script the plot is complete but mute.

use maud::{Markup, html};
use serde::Serialize;

use super::axis::{Axis, Text};

/// Room around the plot for texts, in units of the picture.
const LEFT: f64 = 64.0;
const RIGHT: f64 = 14.0;
const TOP: f64 = 22.0;
const BOTTOM: f64 = 30.0;
/// Width of a letter of a note, about.
const LETTER: f64 = 5.8;

/// A picture with its legend.
pub(super) struct Plot {
    pub(super) title: &'static str,
    /// A sentence under the title; may be empty.
    pub(super) remark: String,
    pub(super) size: Size,
    pub(super) x: Axis,
    pub(super) y: Axis,
    /// Where the values are, and how each place is called.
    pub(super) places: Vec<Place>,
    pub(super) series: Vec<Series>,
    /// A stretch from the beginning that does not count, and its name.
    pub(super) shaded_to: Option<(f64, &'static str)>,
    /// Lines across, with a text at the top.
    pub(super) marks: Vec<Place>,
}

/// A value on the x axis.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Place {
    pub(super) x: f64,
    pub(super) name: String,
}

/// One line of a plot.
pub(super) struct Series {
    pub(super) name: &'static str,
    pub(super) colour: Colour,
    pub(super) shape: Shape,
    /// One for each place; none is a gap.
    pub(super) values: Vec<Option<f64>>,
    pub(super) text: Text,
}

/// A colour of the page's style.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Colour {
    First,
    Second,
    Third,
    Pale,
    Bad,
    Warn,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    Line,
    /// Dashed, for what was asked for rather than found.
    Dashes,
    /// A line with everything below it tinted.
    Area,
}

/// Width and height of the picture.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Size {
    pub(super) width: f64,
    pub(super) height: f64,
}

/// The width of the page.
pub(super) const WIDE: Size = Size { width: 1_080.0, height: 360.0 };
/// Two beside each other.
pub(super) const HALF: Size = Size { width: 530.0, height: 220.0 };

/// What the pointer shows at one place.
#[derive(Serialize)]
struct Tip<'a> {
    x: f64,
    name: &'a str,
    /// Text and height for each series that has a value here.
    values: Vec<Option<(String, f64)>>,
}

impl Colour {
    fn class(self) -> &'static str {
        match self {
            Colour::First => "c1",
            Colour::Second => "c2",
            Colour::Third => "c3",
            Colour::Pale => "pale",
            Colour::Bad => "bad",
            Colour::Warn => "warn",
        }
    }
}

impl Plot {
    /// The figure: title, legend, picture.
    pub(super) fn markup(&self) -> Markup {
        html! {
            figure.plot.wide[self.size == WIDE] {
                figcaption {
                    strong { (self.title) }
                    @if self.series.len() > 1 {
                        span.legend {
                            @for series in &self.series {
                                span class=(series.colour.class()) {
                                    i.dashes[series.shape == Shape::Dashes] {}
                                    (series.name)
                                }
                            }
                        }
                    }
                    @if self.y.is_logarithmic() { small { "logarithmic" } }
                    @if !self.remark.is_empty() { small { (self.remark) } }
                }
                div.canvas {
                    (self.picture())
                    div.tip hidden {}
                }
            }
        }
    }

    fn picture(&self) -> Markup {
        let Size { width, height } = self.size;
        html! {
            svg viewBox=(format!("0 0 {width} {height}")) role="img" aria-label=(self.title)
                data-tips=(self.tips()) data-names=(self.names())
                data-left=(LEFT) data-right=(width - RIGHT) {
                (self.ground())
                (self.grid())
                @for series in &self.series { (self.series_path(series)) }
                line.cross x1="0" x2="0" y1=(TOP) y2=(height - BOTTOM) visibility="hidden" {}
            }
        }
    }

    /// What lies behind everything: the stretch that does not count, and the marks.
    fn ground(&self) -> Markup {
        let bottom = self.size.height - BOTTOM;
        html! {
            @if let Some((to, _)) = self.shaded_to {
                @let width = short(self.x_at(to) - LEFT);
                rect.shade x=(LEFT) y=(TOP) width=(width) height=(bottom - TOP) {}
            }
            @for mark in &self.marks {
                @let x = short(self.x_at(mark.x));
                line.mark x1=(x) x2=(x) y1=(TOP - 12.0) y2=(bottom) {}
            }
            @for (x, text) in self.notes() { text.note x=(short(x)) y=(TOP - 5.0) { (text) } }
        }
    }

    /// Texts above the plot, as far as there is room up to the next mark.
    fn notes(&self) -> Vec<(f64, &str)> {
        let shaded = self.shaded_to.iter().map(|(_, name)| (LEFT, *name));
        let marked = self.marks.iter().map(|mark| (self.x_at(mark.x), mark.name.as_str()));
        let mut notes: Vec<(f64, &str)> = shaded.chain(marked).collect();
        let ends: Vec<f64> = notes.iter().skip(1).map(|(x, _)| *x).collect();
        let mut ends = ends.into_iter().chain([self.size.width]);
        notes.retain_mut(|(x, text)| {
            *x += 4.0;
            let end = ends.next().unwrap_or(self.size.width);
            *x + LETTER * text.chars().count() as f64 <= end
        });
        notes
    }

    fn grid(&self) -> Markup {
        let Size { width, height } = self.size;
        let bottom = height - BOTTOM;
        html! {
            @for tick in &self.y.ticks {
                @let y = short(self.y_at(tick.value));
                line.grid x1=(LEFT) x2=(width - RIGHT) y1=(y) y2=(y) {}
                text.y x=(LEFT - 8.0) y=(short(self.y_at(tick.value) + 4.0)) { (tick.text) }
            }
            @for tick in &self.x.ticks {
                @let x = short(self.x_at(tick.value));
                line.grid x1=(x) x2=(x) y1=(bottom) y2=(bottom + 4.0) {}
                text.x x=(x) y=(bottom + 18.0) { (tick.text) }
            }
        }
    }

    fn series_path(&self, series: &Series) -> Markup {
        let class = series.colour.class();
        html! {
            @if series.shape == Shape::Area {
                path class={ "area " (class) } d=(self.area(series)) {}
            }
            @let dashes = if series.shape == Shape::Dashes { " dashes" } else { "" };
            path class={ "line " (class) (dashes) } d=(self.line(series)) {}
        }
    }

    /// Stretches without gaps, each a list of points.
    fn stretches(&self, series: &Series) -> Vec<Vec<(f64, f64)>> {
        let mut stretches = vec![Vec::new()];
        for (place, value) in self.places.iter().zip(&series.values) {
            match value {
                Some(value) => {
                    let point = (self.x_at(place.x), self.y_at(*value));
                    if let Some(stretch) = stretches.last_mut() {
                        stretch.push(point);
                    }
                }
                None => stretches.push(Vec::new()),
            }
        }
        stretches.retain(|stretch| !stretch.is_empty());
        stretches
    }

    fn line(&self, series: &Series) -> String {
        let stretches = self.stretches(series);
        stretches.iter().map(|points| points_text(points)).collect::<Vec<_>>().join(" ")
    }

    fn area(&self, series: &Series) -> String {
        let bottom = short(self.size.height - BOTTOM);
        let closed = |points: &Vec<(f64, f64)>| {
            let (first, last) = (short(points[0].0), short(points[points.len() - 1].0));
            format!("{} L{last} {bottom} L{first} {bottom} Z", points_text(points))
        };
        self.stretches(series).iter().map(closed).collect::<Vec<_>>().join(" ")
    }

    fn tips(&self) -> String {
        let tips: Vec<Tip<'_>> = self
            .places
            .iter()
            .enumerate()
            .map(|(index, place)| Tip {
                x: short(self.x_at(place.x)),
                name: &place.name,
                values: self
                    .series
                    .iter()
                    .map(|series| {
                        let value = series.values.get(index).copied().flatten()?;
                        Some(((series.text)(value), short(self.y_at(value))))
                    })
                    .collect(),
            })
            .collect();
        serde_json::to_string(&tips).expect("texts and finite numbers are JSON")
    }

    /// Name and colour of each series, for the tip.
    fn names(&self) -> String {
        let names: Vec<(&str, &str)> =
            self.series.iter().map(|series| (series.name, series.colour.class())).collect();
        serde_json::to_string(&names).expect("texts are JSON")
    }

    fn x_at(&self, value: f64) -> f64 {
        LEFT + self.x.place(value) * (self.size.width - LEFT - RIGHT)
    }

    fn y_at(&self, value: f64) -> f64 {
        let bottom = self.size.height - BOTTOM;
        bottom - self.y.place(value) * (bottom - TOP)
    }
}

/// `M64 190 L70.5 188.2`; a single point is a short line, which round ends make a dot.
fn points_text(points: &[(f64, f64)]) -> String {
    let mut text = String::new();
    for (index, (x, y)) in points.iter().enumerate() {
        let letter = if index == 0 { "M" } else { " L" };
        text.push_str(&format!("{letter}{} {}", short(*x), short(*y)));
    }
    if let [(x, y)] = points {
        text.push_str(&format!(" L{} {}", short(*x + 0.1), short(*y)));
    }
    text
}

/// A tenth of a unit is less than anybody sees.
fn short(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

#[cfg(test)]
mod tests {
    use super::super::super::quantities::amount_text;
    use super::*;

    fn plot(values: Vec<Option<f64>>) -> Plot {
        let places = (0..values.len()).map(|n| Place { x: n as f64, name: format!("<{n}>") });
        Plot {
            title: "A & B",
            remark: String::new(),
            size: HALF,
            x: Axis::time(4.0),
            y: Axis::from_zero(10.0, amount_text),
            places: places.collect(),
            series: vec![Series {
                name: "one",
                colour: Colour::First,
                shape: Shape::Area,
                values,
                text: amount_text,
            }],
            shaded_to: Some((1.0, "warm-up")),
            marks: vec![Place { x: 2.0, name: "step".to_owned() }],
        }
    }

    #[test]
    fn points_stand_where_their_values_are() {
        let plot = plot(vec![Some(0.0), Some(10.0), None, Some(5.0), Some(0.0)]);
        // 530 × 220 less the room around: 452 × 168 from (64, 22).
        assert_eq!(plot.line(&plot.series[0]), "M64 190 L177 22 M403 106 L516 190");
        let area = plot.area(&plot.series[0]);
        assert_eq!(
            area,
            "M64 190 L177 22 L177 190 L64 190 Z M403 106 L516 190 L516 190 L403 190 Z"
        );
    }

    #[test]
    fn a_note_without_room_is_left_out() {
        let mut plot = plot(Vec::new());
        let at = |x: f64, name: &str| Place { x, name: name.to_owned() };
        plot.marks = vec![at(1.0, "60,000/s"), at(1.2, "→ 70,000/s"), at(2.0, "80,000/s")];
        let notes: Vec<&str> = plot.notes().into_iter().map(|(_, text)| text).collect();
        assert_eq!(notes, ["warm-up", "→ 70,000/s", "80,000/s"]);
    }

    #[test]
    fn a_lone_point_is_seen() {
        let plot = plot(vec![None, Some(10.0), None]);
        assert_eq!(plot.line(&plot.series[0]), "M177 22 L177.1 22");
    }

    #[test]
    fn nothing_has_no_path() {
        for values in [Vec::new(), vec![None; 3]] {
            let plot = plot(values);
            assert_eq!(plot.line(&plot.series[0]) + &plot.area(&plot.series[0]), "");
        }
    }

    #[test]
    fn texts_are_escaped_wherever_they_stand() {
        let text = plot(vec![Some(1.0)]).markup().into_string();
        assert!(text.contains("A &amp; B") && !text.contains("<0>"), "{text}");
        assert!(text.contains("&lt;0&gt;"), "{text}");
    }
}
