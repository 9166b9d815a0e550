//! `show problems` (ours): objects and files that could not be used, with cause and cure.

use crate::report::{Problem, Report};
use crate::text::one_line;

/// Prints `show problems`: object, field and reason on one line, cause and cure under it.
pub fn show_problems(report: &Report) -> String {
    if report.problems.is_empty() {
        return format!("No problems on node {}\n", report.node);
    }
    report.problems.iter().map(problem).collect()
}

fn problem(problem: &Problem) -> String {
    let field = match problem.field.as_str() {
        "" => String::new(),
        field => format!(" {}", one_line(field)),
    };
    let (object, reason) = (one_line(&problem.object), one_line(&problem.reason));
    format!("{object}{field}: {reason}\n   {}\n", one_line(&problem.message))
}
