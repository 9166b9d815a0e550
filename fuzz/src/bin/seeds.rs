//! `seeds TARGET FOLDER`: writes what the fuzzing of a target starts from, a file each.

use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let [target, folder] = arguments.as_slice() else {
        eprintln!("usage: seeds decode|engine|nflog FOLDER");
        return ExitCode::from(2);
    };
    let Some(target) = fuzz::Target::ALL.into_iter().find(|it| it.name() == target) else {
        eprintln!("no target {target}");
        return ExitCode::from(2);
    };
    for (number, seed) in target.seeds().iter().enumerate() {
        if let Err(error) = std::fs::write(Path::new(folder).join(format!("seed-{number:03}")), seed) {
            eprintln!("{folder}: {error}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}
