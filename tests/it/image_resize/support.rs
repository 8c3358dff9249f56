//! Helpers that run the step's functions on bytes, and Pillow.

use std::path::{Path, PathBuf};
use std::process::Command;

use afterload::config::ImageLimits;
use afterload_core::error::Result;
use afterload_image_resize::{
    InspectedImage, OutputFormat, OutputSpec, ProfileState, RenderPlan, RenderedImage, inspect_image, render_images,
};
use sha2::{Digest, Sha256};

use crate::support::python;

/// Returns the results of a source in the order in which they were made, and the state of its profile.
pub fn resize(bytes: &[u8], wanted: Vec<OutputSpec>, keep: bool) -> Result<(Vec<RenderedImage>, ProfileState)> {
    resize_within(bytes, wanted, keep, &ImageLimits::default())
}

/// The same with limits.
pub fn resize_within(
    bytes: &[u8],
    wanted: Vec<OutputSpec>,
    keep: bool,
    limits: &ImageLimits,
) -> Result<(Vec<RenderedImage>, ProfileState)> {
    let inspected = inspect_image(bytes, limits)?;
    resize_inspected(&inspected, bytes, wanted, keep, limits)
}

fn resize_inspected(
    inspected: &InspectedImage,
    bytes: &[u8],
    wanted: Vec<OutputSpec>,
    keep: bool,
    limits: &ImageLimits,
) -> Result<(Vec<RenderedImage>, ProfileState)> {
    let plan = RenderPlan::new(inspected, wanted, keep, limits)?;
    let mut pictures = Vec::new();
    let state = render_images(inspected, bytes, plan, limits, &|| Ok(()), |picture| {
        pictures.push(picture);
        Ok(())
    })?;
    Ok((pictures, state))
}

/// Creates the spec of a style.
pub fn style(name: &str, geometry: &str, format: OutputFormat) -> OutputSpec {
    let geometry = geometry.parse().expect("a geometry");
    OutputSpec { name: name.into(), geometry, format, quality: 90, background: None }
}

/// Renders one result as PNG, so that its pixels can be compared.
pub fn one(bytes: &[u8], geometry: &str) -> Result<RenderedImage> {
    resize(bytes, vec![style("one", geometry, OutputFormat::Png)], false).map(|(mut pictures, _)| pictures.remove(0))
}

const SCRIPT: &str = "tests/it/image_resize/pillow.py";

/// Runs `pillow.py` with the tests' Python and returns its output. The pictures that it makes take seconds and are the same
/// each time, so they are made once and copied.
pub fn pillow(args: &[&str], folder: &Path) -> String {
    if *args != ["make"] {
        return run_pillow(args, folder);
    }
    for entry in std::fs::read_dir(made_pictures()).expect("the pictures") {
        let picture = entry.expect("a picture");
        std::fs::copy(picture.path(), folder.join(picture.file_name())).expect("a copy");
    }
    String::new()
}

/// Returns the folder of the pictures, which depend on the script and on the version of Pillow.
fn made_pictures() -> PathBuf {
    let (root, tests) = (Path::new(env!("CARGO_MANIFEST_DIR")), Path::new(env!("CARGO_TARGET_TMPDIR")));
    let mut digest = Sha256::new();
    for file in [SCRIPT, "scripts/test-requirements.txt"] {
        digest.update(std::fs::read(root.join(file)).expect("a file"));
    }
    let made = tests.join(format!("pillow-{}", hex::encode(&digest.finalize()[..8])));
    if !made.exists() {
        std::fs::create_dir_all(tests).expect("a folder for the pictures");
        let making = tempfile::tempdir_in(tests).expect("a temporary folder");
        run_pillow(&["make"], making.path());
        // It fails if another test was faster, which has made the same.
        drop(std::fs::rename(making.path(), &made));
    }
    made
}

fn run_pillow(args: &[&str], folder: &Path) -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join(SCRIPT);
    let output = Command::new(python()).arg(script).args(args).arg(folder).output().expect("Python");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let hint = "needs Pillow; scripts/test.sh makes a Python with it and names it in AFTERLOAD_TEST_PYTHON";
    assert!(output.status.success(), "{out}{err}\n{hint}");
    out.into_owned()
}
