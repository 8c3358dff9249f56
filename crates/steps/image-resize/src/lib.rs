//! `image.resize`: makes smaller pictures from one source.
//!
//! ```text
//! store -> inspect (format, size, complete?) -> wait for memory -> decode once
//!       -> per style: scale -> convert colors -> orient -> encode -> store
//! ```

mod check;
pub mod codes;
mod color;
mod decode;
mod encode;
mod errors;
mod format;
mod geometry;
mod inspect;
mod limits;
mod orientation;
mod pixels;
mod pool;
mod pyramid;
mod render;
mod style;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use futures::TryStreamExt;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::mpsc;

pub use color::ProfileState;
pub use format::{ImageFormat, OutputFormat};
pub use geometry::{Geometry, GeometryError, ScaleCrop};
pub use inspect::{InspectedImage, inspect_image};
pub use limits::ImageLimits;
pub use pool::ImagePool;
pub use render::{RenderPlan, RenderedImage, render_images};
pub use style::{ImageStyle, OutputSpec, StyleSettings};

use afterload_core::error::{Error, Result};
use afterload_core::file::File;
use afterload_pipeline::{Templated, Validator};
use afterload_step_api::{ProgressUpdate, Step, StepContext, VerifiedFile};

/// Makes pictures of other sizes and formats: thumbnails, previews, versions for the web. JPEG, PNG, WebP and GIF are
/// read, told apart by their bytes; of an animation the first frame. The source is decoded once for all styles.
///
/// Results are upright whatever the camera's orientation was, in sRGB, and carry no metadata (no place where the photo was
/// taken) unless `keep_metadata` says so. What a file may cost is bounded by `limits.image` of the configuration.
///
/// Progress counts `styles`. Promise: effectively once; the same source and settings give the same bytes.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ImageResize {
    /// The picture.
    pub source: Templated<File>,
    /// The results by name, each a geometry such as `800x600>` or a map of settings. `WxH` fits in, `W` and `xH` name one
    /// side, `N%` scales, `N@` limits the pixels in all; behind it `>` only shrinks, `<` only enlarges, `!` ignores the
    /// proportions, `^` fills and juts out, `#` fills and cuts off what juts out. Sizes are ImageMagick's, to the pixel.
    pub styles: BTreeMap<String, ImageStyle>,
    /// The format of the results.
    #[serde(default)]
    pub format: OutputFormat,
    /// The quality of JPEG and WebP, from 1 to 100.
    #[serde(default = "default_quality")]
    #[schemars(range(min = 1, max = 100))]
    pub quality: u64,
    /// The colour behind transparent pixels, such as `"#ffffff"`; default: white for JPEG, and transparent stays
    /// transparent in PNG and WebP.
    #[serde(default)]
    pub background: Option<String>,
    /// Leaves EXIF (also where the photo was taken) and the colour profile in the results.
    #[serde(default)]
    pub keep_metadata: bool,
    /// Keeps animations moving. Not supported yet.
    #[serde(default)]
    #[schemars(extend("deprecated" = true))]
    pub animated: Option<Value>,
}

/// What later steps may use.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct ImageResizeOutputs {
    /// The results by the names of their styles; each is a file with its size.
    pub styles: BTreeMap<String, ResizedImage>,
    /// What the source is.
    pub source: SourceImage,
}

/// A result.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct ResizedImage {
    /// The file.
    #[serde(flatten)]
    pub file: File,
    /// Pixels from left to right.
    pub width: u32,
    /// Pixels from top to bottom.
    pub height: u32,
}

/// What a source is.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct SourceImage {
    /// Pixels from left to right, when it is upright.
    pub width: u32,
    /// Pixels from top to bottom, when it is upright.
    pub height: u32,
    /// Its format.
    pub format: ImageFormat,
    /// How the camera was held: 1 to 8, as EXIF counts; 1 is upright.
    pub orientation: u8,
    /// Whether it has more than one frame.
    pub animated: bool,
    /// What became of its colour profile.
    pub profile: ProfileState,
}

impl Step for ImageResize {
    const KIND: &'static str = "image.resize";
    const MAKES_FILES: bool = true;
    const EXAMPLE: &'static str = r##"source: "${{ params.photo }}"
styles:
  small: "100x100#"
  medium: "600x600>"
  large: { geometry: "1600x1600>", format: webp, quality: 75 }
  logo: { geometry: "x64", format: jpeg, background: "#fafafa" }
format: keep
quality: 80
"##;
    type Outputs = ImageResizeOutputs;
    type Deps = ImagePool;

    fn check(&self, check: &mut Validator<'_>) {
        self.check_options(check);
    }

    fn always_makes_files(&self) -> bool {
        true
    }

    async fn run(self, ctx: StepContext, images: ImagePool) -> Result<ImageResizeOutputs> {
        let wanted = self.output_specs()?;
        let source = ctx.files.verifier().verify_file(&self.source.into_value()?)?;
        let limits = Arc::new(images.limits.clone());
        let _file = images.acquire_file_slot(&ctx.stop).await?;
        let bytes = load_source(&ctx, &limits, &source).await?;
        let (looked_at, inspecting) = (bytes.clone(), limits.clone());
        let inspected = run_blocking(move || inspect_image(&looked_at, &inspecting)).await?;
        let plan = RenderPlan::new(&inspected, wanted, self.keep_metadata, &limits)?;
        let permit = images.acquire_memory(plan.memory, &ctx.stop).await?;

        let total = self.styles.len() as u64;
        let facts = inspected.clone();
        let (made, mut pictures) = mpsc::channel::<RenderedImage>(1);
        let stop = ctx.stop.clone();
        let work = run_blocking(move || {
            let _permit = permit;
            let stopped = || match stop.is_cancelled() {
                true => Err(Error::new(codes::STEP_STOPPED, "the step was asked to stop")),
                false => Ok(()),
            };
            let gone = |_| Error::new(codes::STEP_STOPPED, "nobody waits for the results any more");
            render_images(&inspected, &bytes, plan, &limits, &stopped, |picture| {
                made.blocking_send(picture).map_err(gone)
            })
        });
        let ctx = &ctx;
        // This future owns the receiver. If it fails, the next send of the worker thread fails too, and the thread
        // ends.
        let store = async move {
            let mut styles = BTreeMap::new();
            while let Some(picture) = pictures.recv().await {
                let (name, image) = store_image(ctx, picture).await?;
                styles.insert(name, image);
                let done = styles.len() as u64;
                ctx.progress.report_committed(ProgressUpdate {
                    done,
                    total: Some(total),
                    unit: "styles".into(),
                    ..ProgressUpdate::default()
                });
            }
            Ok::<_, Error>(styles)
        };
        let (profile, styles) = tokio::join!(work, store);
        // If the store failed, the worker's error only follows from it. So the store's error comes first.
        let (styles, profile) = (styles?, profile?);
        let seen = facts.upright_size();
        let source = SourceImage {
            width: seen.width,
            height: seen.height,
            format: facts.format,
            orientation: facts.orientation.exif_value(),
            animated: facts.animated,
            profile,
        };
        Ok(ImageResizeOutputs { styles, source })
    }
}

/// Reads the whole source into memory. Its size is checked before the first byte.
async fn load_source(ctx: &StepContext, limits: &ImageLimits, source: &VerifiedFile) -> Result<Bytes> {
    let mut body = ctx.files.open(source, 0).await?;
    render::check_file_size(body.meta.size, limits)?;
    let mut bytes = Vec::with_capacity(body.meta.size as usize);
    while let Some(piece) = body.stream.try_next().await? {
        bytes.extend_from_slice(&piece);
        render::check_file_size(bytes.len() as u64, limits)?;
        ctx.check_stopped()?;
    }
    Ok(bytes.into())
}

async fn store_image(ctx: &StepContext, picture: RenderedImage) -> Result<(String, ResizedImage)> {
    ctx.check_stopped()?;
    let name = format!("{}.{}", picture.name, picture.format.file_extension());
    let mut file = ctx.files.create(&name, picture.format.media_type()).await?;
    file.write(picture.bytes.into()).await?;
    let image = ResizedImage { file: file.finish().await?, width: picture.size.width, height: picture.size.height };
    Ok((picture.name, image))
}

/// Runs blocking work on its own thread. The work ends soon after the step is stopped.
async fn run_blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let ended = tokio::task::spawn_blocking(work).await;
    ended.map_err(|error| Error::new(codes::STEP_PANICKED, format!("the step broke down: {error}")))?
}

fn default_quality() -> u64 {
    80
}
