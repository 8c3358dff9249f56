//! Helpers that run the step's functions on bytes, and Pillow.

use std::path::Path;
use std::process::Command;

use afterload::config::ImageLimits;
use afterload_core::error::Result;
use afterload_image_resize::{
    InspectedImage, OutputFormat, OutputSpec, ProfileState, RenderPlan, RenderedImage, inspect_image, render_images,
};

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

/// Runs `pillow.py` with the tests' Python and returns its output.
pub fn pillow(args: &[&str], folder: &Path) -> String {
    let program = std::env::var("AFTERLOAD_TEST_PYTHON").unwrap_or_else(|_| "python3".into());
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/image_resize/pillow.py");
    let output = Command::new(program).arg(script).args(args).arg(folder).output().expect("Python");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let hint = "needs Pillow; scripts/test.sh makes a Python with it and names it in AFTERLOAD_TEST_PYTHON";
    assert!(output.status.success(), "{out}{err}\n{hint}");
    out.into_owned()
}
