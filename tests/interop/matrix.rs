//! Every protocol version over every transport, both ways, with both implementations.
//!
//! A cell is one daemon of ours in a repo of its own, and far sides that speak one version of Bitswap only: ours is not
//! told which and has to find out. The large items take part in one transport of each version and implementation.

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::content::{self, Item, Recipe};
use crate::nodes::{Ours, Wire};
use crate::peers::{Far, Programs};
use crate::{Tally, attempt, table};

/// Cells at a time; each has two processes that hash.
const AT_ONCE: usize = 2;

/// Longer reasons are cut in the table and told in full below it.
const REASON_MAX: usize = 60;

const VERSIONS: [&str; 3] = ["1.2.0", "1.1.0", "1.0.0"];

const COLUMNS: [Column; 4] = [
    Column { name: "boxo→us", far: Far::Boxo, ours_fetches: true },
    Column { name: "us→boxo", far: Far::Boxo, ours_fetches: false },
    Column { name: "helia→us", far: Far::Helia, ours_fetches: true },
    Column { name: "us→helia", far: Far::Helia, ours_fetches: false },
];

#[derive(Debug, Clone, Copy)]
struct Column {
    name: &'static str,
    far: Far,
    ours_fetches: bool,
}

#[derive(Debug, Clone, Copy)]
struct Row {
    version: &'static str,
    wire: Wire,
}

impl Row {
    fn name(self) -> String {
        format!("{} {}", self.version, self.wire.name())
    }

    /// Why there is no such cell.
    fn impossible(self, far: Far) -> Option<&'static str> {
        match (far, self.wire) {
            (_, Wire::PrivateQuic) => Some("swarm keys need TCP"),
            (Far::Helia, _) if self.version != "1.2.0" => Some("Helia has 1.2.0 only"),
            (Far::Helia, Wire::Quic) => Some("Helia has no QUIC"),
            _ => None,
        }
    }

    /// Whether the large items take part: over TLS, where every version of both is.
    fn has_large(self) -> bool {
        self.wire == Wire::Tls
    }

    fn recipe(self, far: Far, item: &Item) -> Recipe {
        let recipe = if self.version == "1.0.0" { item.recipe.in_v0() } else { item.recipe };
        if far == Far::Helia { recipe.balanced() } else { recipe }
    }
}

enum Outcome {
    Impossible(&'static str),
    Done {
        results: Vec<Result<(), String>>,
        time: Duration,
    },
    /// Before any item could be tried.
    Broken(String),
}

impl Outcome {
    fn tally(&self) -> Tally {
        match self {
            Self::Impossible(_) => Tally::default(),
            Self::Broken(_) => Tally { passed: 0, failed: 1 },
            Self::Done { .. } if self.failure().is_none() => Tally { passed: 1, failed: 0 },
            Self::Done { .. } => Tally { passed: 0, failed: 1 },
        }
    }

    fn failure(&self) -> Option<&str> {
        match self {
            Self::Impossible(_) => None,
            Self::Broken(reason) => Some(reason),
            Self::Done { results, .. } if results.is_empty() => Some("nothing was exchanged"),
            Self::Done { results, .. } => results.iter().find_map(|result| result.as_ref().err()).map(String::as_str),
        }
    }

    fn text(&self) -> String {
        let short = |reason: &str| -> String { reason.lines().collect::<String>().chars().take(REASON_MAX).collect() };
        match self {
            Self::Impossible(reason) => format!("n/a: {reason}"),
            Self::Broken(reason) => format!("FAIL {}", short(reason)),
            Self::Done { results, time } => {
                let good = results.iter().filter(|result| result.is_ok()).count();
                let count = format!("{good}/{} {:.1}s", results.len(), time.as_secs_f64());
                self.failure().map_or_else(|| format!("ok {count}"), |reason| format!("FAIL {count} {}", short(reason)))
            }
        }
    }
}

/// Runs the cells of all rows, or of those whose names contain one of `only`, and prints the table.
pub(crate) fn run(programs: &Programs, folder: &Path, only: &[String]) -> Tally {
    let originals = folder.join("originals");
    std::fs::create_dir_all(&originals).unwrap();
    let items = content::plant(&originals);
    let rows: Vec<Row> = VERSIONS
        .into_iter()
        .flat_map(|version| Wire::ALL.map(|wire| Row { version, wire }))
        .filter(|row| only.is_empty() || only.iter().any(|word| row.name().contains(word.as_str())))
        .collect();
    let outcomes = all_cells(&rows, |row, column| cell(programs, folder, &items, row, column));
    let head = ["version, transport"].into_iter().chain(COLUMNS.map(|column| column.name));
    let mut lines: Vec<Vec<String>> = vec![head.map(str::to_owned).collect()];
    let mut tally = Tally::default();
    for (row, cells) in rows.iter().zip(outcomes.chunks(COLUMNS.len())) {
        let mut line = vec![row.name()];
        line.extend(cells.iter().map(Outcome::text));
        lines.push(line);
        cells.iter().for_each(|cell| tally += cell.tally());
    }
    println!("\nItems exchanged whole; the large ones (20 and 33 MiB, a folder of 3000) go over TCP+TLS only.");
    table::print(&lines);
    for (row, cells) in rows.iter().zip(outcomes.chunks(COLUMNS.len())) {
        for (column, reason) in COLUMNS.iter().zip(cells).filter_map(|(c, cell)| Some((c, cell.failure()?))) {
            println!("\n{} {}: {reason}", row.name(), column.name);
        }
    }
    tally
}

/// Runs the cells a few at a time; the outcomes come row by row.
fn all_cells(rows: &[Row], run: impl Fn(Row, Column) -> Outcome + Sync) -> Vec<Outcome> {
    let cells: Vec<(Row, Column)> = rows.iter().flat_map(|row| COLUMNS.map(|column| (*row, column))).collect();
    let outcomes: Vec<Mutex<Option<Outcome>>> = cells.iter().map(|_| Mutex::new(None)).collect();
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some((i, (row, column))) =
                    Some(next.fetch_add(1, Ordering::Relaxed)).and_then(|i| cells.get(i).map(|cell| (i, *cell)))
                {
                    let outcome = run(row, column);
                    if !matches!(outcome, Outcome::Impossible(_)) {
                        eprintln!("{} {}: {}", row.name(), column.name, outcome.text());
                    }
                    *outcomes[i].lock().unwrap() = Some(outcome);
                }
            });
        }
    });
    let empty = || Outcome::Broken("the cell is empty".to_owned());
    outcomes.into_iter().map(|outcome| outcome.into_inner().unwrap().unwrap_or_else(empty)).collect()
}

fn cell(programs: &Programs, folder: &Path, items: &[Item], row: Row, column: Column) -> Outcome {
    if let Some(reason) = row.impossible(column.far) {
        return Outcome::Impossible(reason);
    }
    let items: Vec<&Item> = items.iter().filter(|item| row.has_large() || !item.large).collect();
    let started = Instant::now();
    let exchange = if column.ours_fetches { from_far } else { to_far };
    let done = attempt(|| {
        let folder = tempfile::tempdir_in(folder).unwrap();
        exchange(programs, folder.path(), &items, row, column.far)
    });
    match done {
        Ok(results) => Outcome::Done { results, time: started.elapsed() },
        Err(reason) => Outcome::Broken(reason),
    }
}

/// We fetch: a far side for each recipe, since one process imports by one.
fn from_far(programs: &Programs, folder: &Path, items: &[&Item], row: Row, far: Far) -> Vec<Result<(), String>> {
    let ours = Ours::start(folder, "repo", row.wire);
    let link = crate::peers::Link { protocol: Some(row.version), ..ours.link() };
    let mut results = Vec::new();
    let mut recipes: Vec<Recipe> = Vec::new();
    for item in items {
        let recipe = row.recipe(far, item);
        if !recipes.contains(&recipe) {
            recipes.push(recipe);
        }
    }
    for recipe in recipes {
        let group: Vec<&&Item> = items.iter().filter(|item| row.recipe(far, item) == recipe).collect();
        let paths: Vec<&Path> = group.iter().map(|item| item.path.as_path()).collect();
        let theirs = programs.serve(far, &link, recipe, &[], &paths);
        for (item, root) in group.iter().zip(&theirs.roots) {
            let copy = folder.join(item.name());
            results.push(attempt(|| {
                ours.get(root, &copy, &theirs.address);
                item.assert_same(&copy);
            }));
        }
        theirs.leave();
    }
    results
}

/// They fetch: a process of theirs for each item.
fn to_far(programs: &Programs, folder: &Path, items: &[&Item], row: Row, far: Far) -> Vec<Result<(), String>> {
    let ours = Ours::start(folder, "repo", row.wire);
    let link = crate::peers::Link { protocol: Some(row.version), ..ours.link() };
    let exchange = |item: &&Item| {
        let root = ours.add(&item.path, row.recipe(far, item));
        let copy = folder.join(item.name());
        programs.fetch(far, &link, ours.daemon.address(), &root, &copy);
        item.assert_same(&copy);
    };
    items.iter().map(|item| attempt(|| exchange(item))).collect()
}
