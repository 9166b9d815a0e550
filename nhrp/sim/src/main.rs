//! `nhrp-sim run`, `replay`, `proof`, `scale`: the simulator from the command line.

use std::alloc::{GlobalAlloc, Layout, System};
use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nhrp_sim::{Rule, Violation};

const USAGE: &str = "usage: nhrp-sim run SEEDS [FIRST]    plays that many seeds on all cores
       nhrp-sim replay SEED [RULE]  one seed with its trace (RULE: that engines leave out; feature `proof`)
       nhrp-sim proof [SEEDS]       each safety rule left out in turn: is it noticed? (feature `proof`)
       nhrp-sim scale               what a spoke costs among 1 000, 10 000 and 100 000";

/// Bytes that are allocated: what a spoke takes is counted, not guessed from pages.
static ALLOCATED: AtomicUsize = AtomicUsize::new(0);

struct Counting;

#[expect(unsafe_code, reason = "an allocator is unsafe by its trait; this one only counts and hands on")]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATED.fetch_add(layout.size(), Ordering::Relaxed);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        ALLOCATED.fetch_sub(layout.size(), Ordering::Relaxed);
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize| arguments.get(at).and_then(|text| text.parse::<u64>().ok());
    match arguments.first().map(String::as_str) {
        Some("run") => run(number(1).unwrap_or(1000), number(2).unwrap_or(0)),
        Some("replay") if number(1).is_some() => {
            let rule = arguments.get(2).map(|name| (name, nhrp_sim::rule(name)));
            match rule {
                Some((name, None)) => {
                    eprintln!("no rule {name}");
                    ExitCode::from(2)
                }
                rule => replay(number(1).unwrap_or(0), rule.and_then(|(_, rule)| rule)),
            }
        }
        #[cfg(feature = "proof")]
        Some("proof") => proof(number(1).unwrap_or(1000)),
        Some("scale") => {
            print!("{}", nhrp_sim::scale::table(|| ALLOCATED.load(Ordering::Relaxed)));
            ExitCode::SUCCESS
        }
        _ => {
            eprintln!("{USAGE}");
            ExitCode::from(2)
        }
    }
}

/// Seeds in turn, the next one to whichever core is free; a progress line on a terminal.
fn run(seeds: u64, first: u64) -> ExitCode {
    quiet_panics();
    let begin = Instant::now();
    let next = AtomicU64::new(first);
    let events = AtomicU64::new(0);
    let done = AtomicU64::new(0);
    let over = AtomicBool::new(false);
    let failed: Mutex<Vec<(u64, Violation)>> = Mutex::new(Vec::new());
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..cores)
            .map(|_| {
                scope.spawn(|| {
                    loop {
                        let seed = next.fetch_add(1, Ordering::Relaxed);
                        if seed >= first + seeds {
                            return;
                        }
                        let outcome = nhrp_sim::run(seed, None, false);
                        events.fetch_add(outcome.stats.events, Ordering::Relaxed);
                        done.fetch_add(1, Ordering::Relaxed);
                        if let Some(violation) = outcome.violation {
                            eprintln!("\nseed {seed} fails after {} ms: {}", violation.at_ms, violation.what);
                            if let Ok(mut failed) = failed.lock() {
                                failed.push((seed, violation));
                            }
                        }
                    }
                })
            })
            .collect();
        scope.spawn(|| {
            let terminal = std::io::stderr().is_terminal();
            let mut shown = Instant::now();
            while !over.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(100));
                let each = if terminal { 1 } else { 30 };
                if shown.elapsed() < Duration::from_secs(each) {
                    continue;
                }
                shown = Instant::now();
                let count = done.load(Ordering::Relaxed);
                let end = if terminal { "\r" } else { "\n" };
                eprint!("{count} of {seeds} seeds, {} s{end}", begin.elapsed().as_secs());
                let _ = std::io::stderr().flush();
            }
        });
        for worker in workers {
            let _ = worker.join();
        }
        over.store(true, Ordering::Relaxed);
    });
    let failed = failed.into_inner().unwrap_or_default();
    println!(
        "{seeds} seeds ({first} to {}), {} events, {:.1} s: {} failed",
        first + seeds - 1,
        events.load(Ordering::Relaxed),
        begin.elapsed().as_secs_f64(),
        failed.len()
    );
    let Some((seed, _)) = failed.iter().min_by_key(|(seed, _)| *seed) else { return ExitCode::SUCCESS };
    println!(
        "how it came to it, the last lines (all of it: cargo run -q --profile sim -p nhrp-sim -- replay {seed}):"
    );
    let trace = nhrp_sim::run(*seed, None, true).trace;
    trace.iter().skip(trace.len().saturating_sub(60)).for_each(|line| println!("{line}"));
    for (seed, violation) in &failed {
        println!("seed {seed}: {} (cargo run -q --profile sim -p nhrp-sim -- replay {seed})", violation.what);
    }
    ExitCode::FAILURE
}

fn replay(seed: u64, rule: Option<Rule>) -> ExitCode {
    quiet_panics();
    let outcome = nhrp_sim::run(seed, rule, true);
    outcome.trace.iter().for_each(|line| println!("{line}"));
    println!("{:?}", outcome.stats);
    match outcome.violation {
        Some(violation) => {
            println!("seed {seed} fails after {} ms: {}", violation.at_ms, violation.what);
            ExitCode::FAILURE
        }
        None => ExitCode::SUCCESS,
    }
}

#[cfg(feature = "proof")]
fn proof(seeds: u64) -> ExitCode {
    quiet_panics();
    println!("{:<26} {:>6}  what was noticed", "rule left out", "seeds");
    let mut missed = 0;
    for rule in Rule::ALL {
        match nhrp_sim::proof::find(*rule, seeds) {
            Some((count, violation)) => {
                println!("{:<26} {count:>6}  {}", format!("{rule:?}"), violation.what)
            }
            None => {
                missed += 1;
                println!("{:<26} {:>6}  NOTHING in {seeds} seeds", format!("{rule:?}"), "-");
            }
        }
    }
    if missed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// A panic of an engine is a breach like others, told with its seed.
fn quiet_panics() {
    std::panic::set_hook(Box::new(|_| {}));
}
