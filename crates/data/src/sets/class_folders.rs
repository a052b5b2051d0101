//! Class folders with or without splits, on disk and in archives.

use crate::sets::collection::{Draft, DraftPart, DraftSamples, Raw};
use crate::sets::files::Source;
use crate::sets::layout::layout;
use crate::sets::tree::{FileId, Tree};
use std::path::Path;
use std::sync::Arc;

/// The images of a tree as class folders with or without splits.
pub(crate) fn folders(tree: &Arc<Tree>, labels: bool, kind: &str) -> Draft {
    let found = layout(tree, labels);
    let labelled = found.parts.iter().any(|p| p.samples.iter().any(|(_, c)| c.is_some()));
    let kind = match (labelled, kind) {
        (false, "class folders") => "images without labels",
        _ => kind,
    };
    let mut draft = Draft::new(&tree.root, kind);
    for p in found.parts {
        let labels = if p.samples.iter().any(|(_, c)| c.is_some()) {
            Raw::One(p.samples.iter().map(|(_, c)| *c).collect())
        } else {
            Raw::None
        };
        let source = Source::Tree(tree.clone(), p.samples.iter().map(|(id, _)| *id).collect());
        let problems = if labelled { several_labels(tree, &p.samples, &found.classes) } else { vec![] };
        let samples = DraftSamples::Files { source, labels, lines: vec![] };
        let doubts: Vec<String> = found.doubts.iter().filter(|(s, _)| *s == p.name).map(|(_, d)| d.clone()).collect();
        draft.parts.push(DraftPart { name: p.name, place: p.place, samples, problems: doubts });
        // Two names of one file in two classes are said, and it is not known which is right.
        draft.notes.extend(problems);
    }
    draft.folders = found.classes;
    draft.notes.extend(found.notes);
    draft.skipped = found.skipped;
    draft
}

/// Files that several classes share through links.
fn several_labels(tree: &Tree, samples: &[(FileId, Option<u32>)], classes: &[String]) -> Vec<String> {
    if !tree.stores.is_empty() {
        return vec![];
    }
    let mut by_number: Vec<(u64, usize)> =
        samples.iter().enumerate().map(|(i, (id, _))| (tree.leaf(*id).place, i)).filter(|(n, _)| *n != 0).collect();
    by_number.sort_unstable();
    let (mut shared, mut first) = (0, String::new());
    for pair in by_number.windows(2) {
        let (a, b) = (&samples[pair[0].1], &samples[pair[1].1]);
        // Numbers repeat across file systems, so the files themselves are compared.
        if pair[0].0 != pair[1].0 || a.1 == b.1 {
            continue;
        }
        let (pa, pb) = (tree.path(a.0), tree.path(b.0));
        let same = std::fs::canonicalize(&pa)
            .ok()
            .zip(std::fs::canonicalize(&pb).ok())
            .is_some_and(|(x, y)| x == y || same_file(&x, &y));
        if same {
            shared += 1;
            if let (true, Some(x), Some(y)) = (first.is_empty(), a.1, b.1) {
                first = format!(
                    "{} (`{}`) and {} (`{}`)",
                    pa.display(),
                    classes[x as usize],
                    pb.display(),
                    classes[y as usize]
                );
            }
        }
    }
    if shared == 0 { vec![] } else { vec![format!("{shared} files have several labels through links: {first}")] }
}

#[cfg(unix)]
fn same_file(a: &Path, b: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let id = |p: &Path| std::fs::metadata(p).ok().map(|m| (m.dev(), m.ino()));
    id(a).is_some() && id(a) == id(b)
}

#[cfg(not(unix))]
fn same_file(a: &Path, b: &Path) -> bool {
    a == b
}
