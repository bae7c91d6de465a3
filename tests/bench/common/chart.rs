//! Memory over time as one small SVG: panels below each other, in each some lines and the bound that they should keep.

use std::path::Path;

use plotters::coord::Shift;
use plotters::prelude::*;

use super::samples::Sample;

/// Points of a line at most; each stands for the most of its stretch, so that no peak is lost.
const POINTS: usize = 100;
const WIDTH: u32 = 860;
const PANEL_HEIGHT: u32 = 250;
/// Of the legend, right of the panel.
const LEGEND_WIDTH: u32 = 170;
/// From one line of the legend to the next.
const LEGEND_LINE: i32 = 17;
/// Colours that differ for most eyes (Okabe and Ito), the strongest first.
const COLORS: [RGBColor; 8] = [
    RGBColor(213, 94, 0),
    RGBColor(0, 114, 178),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
    RGBColor(230, 159, 0),
    RGBColor(110, 110, 110),
    RGBColor(0, 0, 0),
];

/// One system of coordinates: seconds to the right, MiB up.
#[derive(Debug)]
pub struct Panel {
    pub title: String,
    /// The first is drawn on top.
    pub lines: Vec<Line>,
    /// In bytes; drawn where it is given.
    pub bound: Option<u64>,
    /// Whether each step upwards doubles, from 1 MiB on.
    pub doubling: bool,
}

/// Seconds and MiB.
#[derive(Debug)]
pub struct Line {
    pub name: String,
    points: Vec<(f64, f64)>,
}

impl Line {
    pub fn of(name: impl Into<String>, samples: &[Sample], bytes: impl Fn(&Sample) -> u64) -> Self {
        let stretch = samples.len().div_ceil(POINTS).max(1);
        let most = |some: &[Sample]| {
            let most = some.iter().max_by_key(|sample| bytes(sample))?;
            Some((most.at, mebibytes(bytes(most))))
        };
        Self { name: name.into(), points: samples.chunks(stretch).filter_map(most).collect() }
    }
}

/// Draws the panels.
pub fn draw(path: &Path, panels: &[Panel]) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let rows = u32::try_from(panels.len()).unwrap();
    let root = SVGBackend::new(path, (WIDTH, PANEL_HEIGHT * rows)).into_drawing_area();
    root.fill(&WHITE).unwrap();
    for (panel, area) in panels.iter().zip(root.split_evenly((panels.len(), 1))) {
        let (plot, legend) = area.split_horizontally(WIDTH - LEGEND_WIDTH);
        draw_panel(panel, &plot);
        draw_legend(panel, &legend);
    }
    root.present().unwrap();
}

fn draw_panel(panel: &Panel, area: &DrawingArea<SVGBackend<'_>, Shift>) {
    let height = |mib: f64| if panel.doubling { mib.max(1.0).log2() } else { mib };
    let points = || panel.lines.iter().flat_map(|line| &line.points);
    let seconds = points().map(|point| point.0).fold(1.0, f64::max);
    let most = points().map(|point| point.1).chain(panel.bound.map(mebibytes)).fold(2.0, f64::max);
    let mut chart = ChartBuilder::on(area)
        .caption(&panel.title, ("sans-serif", 18))
        .margin(8)
        .x_label_area_size(34)
        .y_label_area_size(56)
        .build_cartesian_2d(0.0..seconds, 0.0..height(most) * 1.05)
        .unwrap();
    let mib = |at: &f64| format!("{:.0}", if panel.doubling { at.exp2() } else { *at });
    let mut mesh = chart.configure_mesh();
    mesh.x_desc("seconds").y_desc("MiB").x_labels(8).y_labels(7).max_light_lines(0).bold_line_style(BLACK.mix(0.12));
    let digits = usize::from(seconds < 10.0);
    let second = |at: &f64| format!("{at:.digits$}");
    mesh.label_style(("sans-serif", 14)).x_label_formatter(&second);
    mesh.y_label_formatter(&mib).draw().unwrap();
    let lines =
        panel.lines.iter().zip(COLORS.iter().cycle()).map(|(line, color)| (line.points.clone(), color.mix(1.0)));
    let bound = panel.bound.map(mebibytes).map(|mib| (vec![(0.0, mib), (seconds, mib)], BLACK.mix(0.4)));
    for (points, color) in lines.chain(bound).collect::<Vec<_>>().into_iter().rev() {
        let points = points.into_iter().map(|(at, mib)| (at, height(mib)));
        chart.draw_series(LineSeries::new(points, color.stroke_width(2))).unwrap();
    }
}

fn draw_legend(panel: &Panel, area: &DrawingArea<SVGBackend<'_>, Shift>) {
    let bound = panel.bound.map(|bound| (format!("bound, {:.0} MiB", mebibytes(bound)), BLACK.mix(0.4)));
    let lines = panel.lines.iter().zip(COLORS.iter().cycle()).map(|(line, color)| (line.name.clone(), color.mix(1.0)));
    let mut y = 44;
    for (name, color) in lines.chain(bound) {
        area.draw(&PathElement::new([(0, y), (18, y)], color.stroke_width(3))).unwrap();
        area.draw(&Text::new(name, (24, y - 7), ("sans-serif", 14))).unwrap();
        y += LEGEND_LINE;
    }
}

fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
