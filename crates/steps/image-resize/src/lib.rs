//! `image.resize`: one picture in, several smaller ones out.
//!
//! ```text
//! store -> inspect (what, how large, whole?) -> wait for room -> decode once
//!       -> per style: scale -> convert colours -> turn -> encode -> store
//! ```

mod check;
mod colour;
mod decode;
mod encode;
mod fault;
mod format;
mod geometry;
mod inspect;
mod limits;
mod orient;
mod pixels;
mod pool;
mod render;
mod resize;
mod style;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use futures::TryStreamExt;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::mpsc;

pub use colour::ProfileState;
pub use format::{Format, Target};
pub use geometry::{Fit, Geometry, GeometryFault};
pub use inspect::{Inspected, inspect};
pub use limits::ImageLimits;
pub use pool::Images;
pub use render::{Picture, Plan, render};
pub use style::{Settings, Style, Wanted};

use afterload_core::error::{Error, Result};
use afterload_core::file::File;
use afterload_object_store::Objects;
use afterload_pipeline::{Check, Dynamic};
use afterload_step_api::{Context, Report, Step};

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
    pub source: Dynamic<File>,
    /// The results by name, each a geometry such as `800x600>` or a map of settings. `WxH` fits in, `W` and `xH` name one
    /// side, `N%` scales, `N@` limits the pixels in all; behind it `>` only shrinks, `<` only enlarges, `!` ignores the
    /// proportions, `^` fills and juts out, `#` fills and cuts off what juts out. Sizes are ImageMagick's, to the pixel.
    pub styles: BTreeMap<String, Style>,
    /// The format of the results.
    #[serde(default)]
    pub format: Target,
    /// The quality of JPEG and WebP, from 1 to 100.
    #[serde(default = "quality")]
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
    pub animated: Option<Value>,
}

/// What later steps may use.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Outputs {
    /// The results by the names of their styles; each is a file with its size.
    pub styles: BTreeMap<String, Image>,
    /// What the source is.
    pub source: SourceImage,
}

/// A result.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Image {
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
    pub format: Format,
    /// How the camera was held: 1 to 8, as EXIF counts; 1 is upright.
    pub orientation: u8,
    /// Whether it has more than one frame.
    pub animated: bool,
    /// What became of its colour profile.
    pub profile: ProfileState,
}

/// What `ImageResize` works with.
#[derive(Clone)]
pub struct ImageResizeDeps {
    /// Memory and cores for pictures.
    pub images: Images,
    /// Files in any bucket.
    pub objects: Objects,
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
    type Outputs = Outputs;
    type Deps = ImageResizeDeps;

    fn check(&self, check: &mut Check<'_>) {
        self.problems(check);
    }

    async fn run(self, ctx: Context, deps: ImageResizeDeps) -> Result<Outputs> {
        let wanted = self.wanted()?;
        let source = self.source.value()?;
        let limits = Arc::new(deps.images.limits.clone());
        let _file = deps.images.file(&ctx.stop).await?;
        let bytes = load(&ctx, &deps, &source).await?;
        let (looked_at, inspecting) = (bytes.clone(), limits.clone());
        let inspected = blocking(move || inspect(&looked_at, &inspecting)).await?;
        let plan = Plan::new(&inspected, wanted, self.keep_metadata, &limits)?;
        let room = deps.images.room(plan.memory, &ctx.stop).await?;

        let total = self.styles.len() as u64;
        let facts = inspected.clone();
        let (made, mut pictures) = mpsc::channel::<Picture>(1);
        let stop = ctx.stop.clone();
        let work = blocking(move || {
            let _room = room;
            let stopped = || match stop.is_cancelled() {
                true => Err(Error::stopped("step_stopped", "the step was asked to stop")),
                false => Ok(()),
            };
            let gone = |_| Error::stopped("step_stopped", "nobody waits for the results any more");
            render(&inspected, &bytes, plan, &limits, &stopped, |picture| made.blocking_send(picture).map_err(gone))
        });
        let ctx = &ctx;
        // It owns the receiver: once it has failed, the work finds nobody to hand results to, and ends.
        let store = async move {
            let mut styles = BTreeMap::new();
            while let Some(picture) = pictures.recv().await {
                let (name, image) = stored(ctx, picture).await?;
                styles.insert(name, image);
                let done = styles.len() as u64;
                ctx.progress.committed(Report { done, total: Some(total), unit: "styles".into(), ..Report::default() });
            }
            Ok::<_, Error>(styles)
        };
        let (profile, styles) = tokio::join!(work, store);
        // Work that nobody waited for fails too, but for a reason of no interest.
        let (styles, profile) = (styles?, profile?);
        let seen = facts.seen();
        let source = SourceImage {
            width: seen.width,
            height: seen.height,
            format: facts.format,
            orientation: facts.orientation.exif(),
            animated: facts.animated,
            profile,
        };
        Ok(Outputs { styles, source })
    }
}

/// Reads the source, all of it: pictures are small, and their limit is looked at before the first byte.
async fn load(ctx: &Context, deps: &ImageResizeDeps, source: &File) -> Result<Bytes> {
    let limits = &deps.images.limits;
    let mut body = deps.objects.open(source, 0).await?;
    render::check_file(body.stored.size, limits)?;
    let mut bytes = Vec::with_capacity(body.stored.size as usize);
    while let Some(piece) = body.stream.try_next().await? {
        bytes.extend_from_slice(&piece);
        render::check_file(bytes.len() as u64, limits)?;
        ctx.stopped()?;
    }
    Ok(bytes.into())
}

async fn stored(ctx: &Context, picture: Picture) -> Result<(String, Image)> {
    ctx.stopped()?;
    let name = format!("{}.{}", picture.name, picture.format.extension());
    let mut file = ctx.files.create(&name, picture.format.media()).await?;
    file.write(picture.bytes.into()).await?;
    let image = Image { file: file.finish().await?, width: picture.size.width, height: picture.size.height };
    Ok((picture.name, image))
}

/// Runs work on a thread that may block. It ends by itself soon after the step was stopped.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let ended = tokio::task::spawn_blocking(work).await;
    ended.map_err(|error| Error::transient("step_panicked", format!("the step broke down: {error}")))?
}

fn quality() -> u64 {
    80
}
