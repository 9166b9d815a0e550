//! The story that the demo tells: chapters and steps, each with what was expected, what was seen and how long
//! it took. A step that fails ends its chapter; the chapters after it are not told. A chapter that does not
//! exist yet is said to be absent, never shown green.

use std::fmt::Display;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Result;

type Evidence<'a> = Box<dyn FnMut(&str) -> Result<PathBuf> + 'a>;

/// A run of the demo.
pub struct Story<'a> {
    started: Instant,
    chapters: Vec<Told>,
    failed: bool,
    evidence: Evidence<'a>,
}

struct Told {
    number: u32,
    title: String,
    outcome: Outcome,
    steps: usize,
    time: Duration,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Held,
    Failed,
    NotReached,
    Absent,
}

/// Steps of one chapter.
pub struct Chapter {
    number: u32,
    steps: usize,
    /// What failed, with its step, as printed.
    failure: Option<String>,
}

/// A step failed and has been reported; the chapter ends.
#[derive(Debug)]
pub struct StepFailed;

impl Display for StepFailed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a step failed")
    }
}

impl std::error::Error for StepFailed {}

impl<'a> Story<'a> {
    /// A story; `evidence` is called once, at the first failure, with the reason, and returns the folder.
    pub fn new(title: &str, evidence: impl FnMut(&str) -> Result<PathBuf> + 'a) -> Self {
        println!("{title}\n");
        Self { started: Instant::now(), chapters: Vec::new(), failed: false, evidence: Box::new(evidence) }
    }

    /// Tells a chapter. What `tell` returns is handed on if every step held. An error that is no failed step
    /// (preparation between steps) counts as a failure of the chapter too.
    pub fn chapter<T>(&mut self, title: &str, tell: impl FnOnce(&mut Chapter) -> Result<T>) -> Option<T> {
        let number = self.next();
        println!("{number}. {title}");
        if self.failed {
            println!("   not reached\n");
            self.told(number, title, Outcome::NotReached, 0, Duration::ZERO);
            return None;
        }
        let start = Instant::now();
        let mut chapter = Chapter { number, steps: 0, failure: None };
        let told = tell(&mut chapter);
        let failure = match (&told, chapter.failure.take()) {
            (_, Some(failure)) => Some(failure),
            (Err(error), None) => {
                println!("   FAILED   {error:#}");
                Some(format!("chapter {number}: {error:#}"))
            }
            (Ok(_), None) => None,
        };
        let outcome = if failure.is_some() { Outcome::Failed } else { Outcome::Held };
        self.told(number, title, outcome, chapter.steps, start.elapsed());
        let Some(failure) = failure else {
            println!();
            return told.ok();
        };
        self.failed = true;
        match (self.evidence)(&failure) {
            Ok(dir) => println!("   evidence: {}\n", dir.display()),
            Err(error) => println!("   no evidence could be written: {error:#}\n"),
        }
        None
    }

    /// Says that a chapter does not exist yet.
    pub fn absent(&mut self, title: &str) {
        let number = self.next();
        println!("{number}. {title}\n   absent: this chapter does not exist yet\n");
        self.told(number, title, Outcome::Absent, 0, Duration::ZERO);
    }

    /// Prints the summary; returns the exit status: 0 only if every step held.
    #[must_use]
    pub fn finish(self) -> i32 {
        println!(
            "    chapter                                                       steps   outcome       time"
        );
        for told in &self.chapters {
            let outcome = match told.outcome {
                Outcome::Held => "held",
                Outcome::Failed => "FAILED",
                Outcome::NotReached => "not reached",
                Outcome::Absent => "absent",
            };
            let (steps, time) = match told.outcome {
                Outcome::Held | Outcome::Failed => (told.steps.to_string(), seconds(told.time)),
                Outcome::NotReached | Outcome::Absent => ("-".to_owned(), "-".to_owned()),
            };
            println!(
                "{:>3} {:<60} {steps:>6}   {outcome:<11} {time:>7}",
                told.number,
                shorten(&told.title, 60)
            );
        }
        let absent = self.chapters.iter().filter(|t| t.outcome == Outcome::Absent).count();
        let result = match (self.failed, absent) {
            (true, _) => "FAILED".to_owned(),
            (false, 0) => "every step held".to_owned(),
            (false, n) => format!("every step held; {n} chapters are absent"),
        };
        println!("\n{result} after {}", seconds(self.started.elapsed()));
        i32::from(self.failed)
    }

    /// Whether a step has failed.
    #[must_use]
    pub fn failed(&self) -> bool {
        self.failed
    }

    fn next(&self) -> u32 {
        self.chapters.last().map_or(1, |c| c.number + 1)
    }

    fn told(&mut self, number: u32, title: &str, outcome: Outcome, steps: usize, time: Duration) {
        self.chapters.push(Told { number, title: title.to_owned(), outcome, steps, time });
    }
}

impl Chapter {
    /// One step: `what` is done, `expected` says what must come out, `act` does it and returns what was seen.
    ///
    /// # Errors
    /// [`StepFailed`] after the failure has been printed: hand it on with `?`.
    pub fn step(&mut self, what: &str, expected: &str, act: impl FnOnce() -> Result<String>) -> Result<()> {
        self.step_with(what, expected, || act().map(|seen| ((), seen)))
    }

    /// As [`Self::step`], and hands on a value.
    ///
    /// # Errors
    /// As [`Self::step`].
    pub fn step_with<T, S: Display>(
        &mut self,
        what: &str,
        expected: &str,
        act: impl FnOnce() -> Result<(T, S)>,
    ) -> Result<T> {
        self.steps += 1;
        println!("   {}.{} {what}", self.number, self.steps);
        println!("       expected {}", indent(expected));
        let start = Instant::now();
        let outcome = act();
        let time = seconds(start.elapsed());
        match outcome {
            Ok((value, seen)) => {
                println!("       seen     {}", indent(&seen.to_string()));
                println!("       time     {time}");
                Ok(value)
            }
            Err(error) => {
                println!("       FAILED   {}", indent(&format!("{error:#}")));
                println!("       time     {time}");
                self.failure = Some(format!("step {}.{} {what}: {error:#}", self.number, self.steps));
                Err(StepFailed.into())
            }
        }
    }

    /// Something to show between steps, as it is: a command and what it printed.
    pub fn show(&self, title: &str, text: &str) {
        println!("       {title}");
        for line in text.lines() {
            println!("       | {line}");
        }
    }
}

/// Further lines stand below the first.
fn indent(text: &str) -> String {
    text.trim_end().replace('\n', "\n                ")
}

fn seconds(time: Duration) -> String {
    if time < Duration::from_millis(1000) {
        return format!("{} ms", time.as_millis());
    }
    format!("{:.1} s", time.as_secs_f64())
}

fn shorten(text: &str, length: usize) -> String {
    if text.chars().count() <= length {
        return text.to_owned();
    }
    text.chars().take(length - 1).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[test]
    fn every_step_held_is_status_0_even_with_absent_chapters() {
        let mut story = Story::new("t", |_| unreachable!("no failure, no evidence"));
        let value = story.chapter("one", |c| c.step_with("add", "2", || Ok((2, "2"))));
        story.absent("two");
        assert_eq!(value, Some(2));
        assert_eq!(story.finish(), 0);
    }

    #[test]
    fn a_failed_step_ends_its_chapter_and_the_story() {
        let (evidence, after) = (Cell::new(0), Cell::new(false));
        let mut story = Story::new("t", |why: &str| {
            assert!(why.contains("step 1.1 look"), "{why}");
            evidence.set(evidence.get() + 1);
            Ok(PathBuf::from("/x"))
        });
        story.chapter("one", |c| {
            c.step("look", "a", || anyhow::bail!("b"))?;
            after.set(true);
            Ok(())
        });
        story.chapter("two", |_| {
            after.set(true);
            Ok(())
        });
        assert_eq!(story.finish(), 1);
        assert_eq!((evidence.get(), after.get()), (1, false));
    }

    #[test]
    fn an_error_between_steps_fails_the_chapter_too() {
        let mut story = Story::new("t", |_| Ok(PathBuf::new()));
        story.chapter("one", |_| -> Result<()> { anyhow::bail!("preparation") });
        assert_eq!(story.finish(), 1);
    }
}
