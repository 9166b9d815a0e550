//! `make bench`: figures about our hub, spoke and engine, beside FRR's nhrpd in the same guest and run.
//!
//! [`hubs`] puts the same [`load`] on both hubs, [`latency`] measures how soon a spoke is there and how soon a path is
//! direct; the bare engine is an example program of `nhrp`, run on the machine itself. All of it in release builds. The
//! guest has one CPU, which hub and load share: figures compare, they do not tell what a router can do.
//!
//! A registration counts once its answer is on the wire and its neighbour in the kernel (all there within a second
//! after the last answer). Memory is what the process holds resident with all spokes less what it held without any,
//! by the number of spokes.
//!
//! [`control_plane`] measures operator and API server with many nodes and spokes, in a program of its own.

pub mod control_plane;
mod hubs;
mod latency;
pub mod load;
mod wire;

use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::guest::{Job, Output, quote, slots};
use crate::lab::Lab;
use crate::{apart, paths};

const MEMORY_MIB: u32 = 1024;
const DEADLINE: Duration = Duration::from_secs(900);
/// Written inside the guest, read outside.
pub const FIGURES: &str = "figures.json";

/// How much is measured.
#[derive(Clone, Debug, clap::Args)]
pub struct Scale {
    /// Numbers of spokes
    #[arg(long, value_delimiter = ',', default_value = "1000,5000,10000")]
    pub spokes: Vec<u32>,
    /// What is measured
    #[arg(long, value_delimiter = ',', default_value = "hubs,latency,engine,control-plane")]
    pub parts: Vec<Part>,
    /// Leave FRR out
    #[arg(long = "no-foreign", action = clap::ArgAction::SetFalse)]
    pub foreign: bool,
}

impl Scale {
    fn has(&self, part: Part) -> bool {
        self.parts.contains(&part)
    }
}

/// A part of the measurement, which runs without the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Part {
    /// Hubs under load.
    Hubs,
    /// How soon a spoke is there, and a path direct.
    Latency,
    /// The engine alone, without sockets.
    Engine,
    /// Operator and API server.
    ControlPlane,
}

/// One figure, and the same of somebody else in the same run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Figure {
    /// What was measured.
    pub name: String,
    /// The figure.
    pub value: f64,
    /// Its unit.
    pub unit: String,
    /// The same of somebody else.
    pub baseline: Option<f64>,
    /// Who that is.
    pub baseline_name: Option<String>,
    /// `value` by `baseline`.
    pub ratio: Option<f64>,
}

impl Figure {
    fn new(name: impl Into<String>, value: f64, unit: &str) -> Self {
        let name = name.into();
        Self { name, value, unit: unit.to_owned(), baseline: None, baseline_name: None, ratio: None }
    }

    fn beside(self, who: &str, baseline: Option<f64>) -> Self {
        let ratio = baseline.map(|baseline| self.value / baseline);
        Self { baseline, baseline_name: baseline.map(|_| who.to_owned()), ratio, ..self }
    }
}

/// What a figure should be.
#[derive(Clone, Copy, Debug)]
enum Goal {
    TimesTheBaseline(f64),
    AtLeast(f64),
    AtMost(f64),
}

/// Goals by the beginning of a figure's name.
const GOALS: [(&str, Goal); 11] = [
    ("registrations.new.", Goal::TimesTheBaseline(10.0)),
    ("registrations.refresh.", Goal::TimesTheBaseline(5.0)),
    ("memory.per-spoke.10000", Goal::AtMost(400.0)),
    ("start-to-registered", Goal::AtMost(200.0)),
    ("direct-path-after-rtt", Goal::AtMost(5.0)),
    ("engine.refresh.", Goal::AtLeast(5e6)),
    ("scale.converged.time", Goal::AtMost(60.0)),
    ("scale.steady.writes", Goal::AtMost(0.0)),
    ("scale.restart.writes", Goal::AtMost(0.0)),
    ("scale.operator.memory", Goal::AtMost(200.0)),
    ("scale.node-to-endpoint.p99", Goal::AtMost(1000.0)),
];

impl Goal {
    fn of(figure: &Figure) -> Option<Self> {
        GOALS.iter().find(|(name, _)| figure.name.starts_with(name)).map(|(_, goal)| *goal)
    }

    fn is_reached(self, figure: &Figure) -> bool {
        match self {
            Self::TimesTheBaseline(times) => figure.ratio.is_some_and(|ratio| ratio >= times),
            Self::AtLeast(least) => figure.value >= least,
            Self::AtMost(most) => figure.value <= most,
        }
    }

    fn text(self) -> String {
        match self {
            Self::TimesTheBaseline(times) => format!("≥ {times} ×"),
            Self::AtLeast(least) => format!("≥ {}", short(least)),
            Self::AtMost(most) => format!("≤ {}", short(most)),
        }
    }
}

/// `make bench`: measures, writes `target/bench.json` and prints the table; returns the exit status.
///
/// # Errors
/// When something cannot be measured.
pub fn bench(scale: &Scale) -> Result<i32> {
    if paths::inside() {
        let lab = Lab::new(paths::out()?)?;
        measure(&lab, scale)?;
        return Ok(0);
    }
    let mut figures = Vec::new();
    let mut failures = Vec::new();
    let mut note = |part: Result<()>| failures.extend(part.err());
    if scale.has(Part::Hubs) || scale.has(Part::Latency) {
        note(in_guest(&mut figures));
    }
    if scale.has(Part::Engine) {
        note(bare_engine().map(|it| figures.extend(it)));
    }
    if scale.has(Part::ControlPlane) {
        note(control_plane().map(|it| figures.extend(it)));
    }
    let target = paths::results()?.with_file_name("bench.json");
    fs::write(&target, serde_json::to_string_pretty(&figures)? + "\n")?;
    print!("\n{}", table(&figures));
    println!("\n{}", target.display());
    match failures.pop() {
        Some(failure) => Err(failure.context("not everything was measured")),
        None => Ok(0),
    }
}

/// Runs this program once more, with the same words, in a guest; what it measured before it failed is there too.
fn in_guest(figures: &mut Vec<Figure>) -> Result<()> {
    let out = paths::results()?.join("bench");
    let measured = out.join(FIGURES);
    let _ = fs::remove_file(&measured);
    let own: Vec<String> = std::env::args().map(|word| quote(&word)).collect();
    let job = Job {
        memory_mib: MEMORY_MIB,
        deadline: DEADLINE,
        ..Job::new(format!("exec {}", own.join(" ")), out.clone())
    };
    let status = job.run(Output::Inherit)?;
    if let Ok(text) = fs::read_to_string(&measured) {
        figures.extend(serde_json::from_str::<Vec<Figure>>(&text)?);
    }
    ensure!(status == 0, "status {status} in the guest; results: {}", out.display());
    Ok(())
}

/// Runs the program for the control plane in namespaces of its own; `DMVPN_CROWD` has words for it.
fn control_plane() -> Result<Vec<Figure>> {
    let out = paths::results()?.join("bench-control-plane");
    if out.exists() {
        fs::remove_dir_all(&out).with_context(|| format!("empty {}", out.display()))?;
    }
    fs::create_dir_all(&out)?;
    let mut words = vec![paths::program("dmvpn-crowd")?.display().to_string()];
    let more = std::env::var("DMVPN_CROWD").unwrap_or_default();
    words.extend(more.split_whitespace().map(str::to_owned));
    let status = apart::command(&words, &out, &slots::list(None)?, apart::WITH_US)?.status()?;
    ensure!(status.success(), "{status}; results: {}", out.display());
    Ok(serde_json::from_str(&fs::read_to_string(out.join(FIGURES))?)?)
}

/// Measures what needs hosts. What there is by then is kept in a file, should a later part fail.
///
/// # Errors
/// When something cannot be measured.
pub fn measure(lab: &Lab, scale: &Scale) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for part in &scale.parts {
        figures.extend(match part {
            Part::Hubs => hubs::measure(lab, scale)?,
            Part::Latency => latency::measure(lab, scale.foreign)?,
            Part::Engine | Part::ControlPlane => continue,
        });
        fs::write(lab.out().join(FIGURES), serde_json::to_string(&figures)?)?;
    }
    Ok(figures)
}

/// Runs the engine's own example on this machine.
fn bare_engine() -> Result<Vec<Figure>> {
    let program = paths::example("registrations")?;
    let output = Command::new(&program).output().with_context(|| program.display().to_string())?;
    ensure!(output.status.success(), "{}: {}", program.display(), output.status);
    let text = String::from_utf8(output.stdout)?;
    let figures = text.lines().filter_map(|line| line.split_once(' '));
    figures.map(|(name, value)| Ok(Figure::new(name, value.parse()?, "1/s"))).collect()
}

/// The figures for people.
fn table(figures: &[Figure]) -> String {
    let mut text =
        format!("{:<30} {:>12} {:>12} {:<10} {:>8}  {}\n", "", "ours", "baseline", "", "ratio", "goal");
    for figure in figures {
        let value = format!("{} {}", short(figure.value), figure.unit);
        let baseline = figure.baseline.map(short).unwrap_or_default();
        let who = figure.baseline_name.clone().unwrap_or_default();
        let ratio = figure.ratio.map(|ratio| format!("{ratio:.2}")).unwrap_or_default();
        let goal = Goal::of(figure).map(|goal| {
            let reached = if goal.is_reached(figure) { "reached" } else { "not reached" };
            format!("{}: {reached}", goal.text())
        });
        let goal = goal.unwrap_or_default();
        text += &format!("{:<30} {value:>12} {baseline:>12} {who:<10} {ratio:>8}  {goal}\n", figure.name);
    }
    text
}

/// A number with as many digits as it is worth.
fn short(value: f64) -> String {
    match value {
        v if v >= 1e6 => format!("{:.2}M", v / 1e6),
        v if v >= 100.0 => format!("{v:.0}"),
        v => format!("{v:.1}"),
    }
}

/// The middle one of several.
fn median(mut values: Vec<f64>) -> Result<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().context("no value")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goals_are_judged_by_name_and_ratio() {
        let figure = |name: &str, value: f64, baseline| Figure::new(name, value, "").beside("x", baseline);
        let judged = |figure: &Figure| Goal::of(figure).map(|goal| goal.is_reached(figure));
        assert_eq!(judged(&figure("registrations.new.1000", 100.0, Some(10.0))), Some(true));
        assert_eq!(judged(&figure("registrations.new.1000", 99.0, Some(10.0))), Some(false));
        assert_eq!(judged(&figure("registrations.new.1000", 99.0, None)), Some(false));
        assert_eq!(judged(&figure("memory.per-spoke.10000", 400.0, None)), Some(true));
        assert_eq!(judged(&figure("memory.per-spoke.1000", 900.0, None)), None);
        let text = table(&[figure("registrations.new.1000", 12_345.6, Some(1000.0))]);
        assert!(text.contains("12346") && text.contains("12.35") && text.contains(": reached"), "{text}");
        assert!(median(vec![3.0, 1.0, 2.0]).is_ok_and(|it| it == 2.0));
    }
}
