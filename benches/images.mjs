// What `images.py` needs of sharp: the sources, the peer's side of the measurement, and a judgement of pictures.
//
//     images.mjs make FOLDER                            writes photo-like sources
//     images.mjs each|cascade FILE REPEATS FOLDER SIZE… prints the CPU milliseconds of one round, leaves the last results
//     images.mjs judge FILE SIZE PICTURE…               prints PSNR and SSIM of each against libvips' best result

import { createRequire } from 'node:module'
import fs from 'node:fs'
import path from 'node:path'

const sharp = createRequire(path.resolve(process.env.SHARP, 'x.js'))('sharp')
sharp.concurrency(1)
sharp.cache(false)

// Hills of many sizes, some hard edges, and the grain of a sensor: about as large in a file as a phone's photos.
function photo(width, height) {
  const data = Buffer.alloc(width * height * 3)
  const size = 512
  let state = 12345
  const random = () => (state = (Math.imul(state, 1664525) + 1013904223) >>> 0) / 2 ** 32
  const lattice = Float32Array.from({ length: size * size }, random)
  const smooth = (x, y) => {
    const i = Math.floor(x), j = Math.floor(y), u = x - i, v = y - j
    const at = (a, b) => lattice[(b & (size - 1)) * size + (a & (size - 1))]
    const s = u * u * (3 - 2 * u), t = v * v * (3 - 2 * v)
    return (at(i, j) * (1 - s) + at(i + 1, j) * s) * (1 - t) + (at(i, j + 1) * (1 - s) + at(i + 1, j + 1) * s) * t
  }
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const p = x / width * 8, q = y / width * 8
      let hills = 0
      for (let octave = 0, gain = 0.5; octave < 6; octave++, gain *= 0.55) hills += gain * smooth(p * 2 ** octave, q * 2 ** octave)
      const edge = Math.sin(p * 3 + 5 * hills) > 0.3 ? 40 : 0
      const grain = (random() - 0.5) * 22
      const at = (y * width + x) * 3
      data[at] = Math.min(255, 210 * hills + edge + grain)
      data[at + 1] = Math.min(255, 190 * smooth(p + 9, q * 2) * 0.4 + 130 * hills + edge / 2 + grain)
      data[at + 2] = Math.min(255, 120 * hills + 90 * smooth(p * 0.7, q + 3) + grain)
    }
  }
  return sharp(data, { raw: { width, height, channels: 3 } })
}

async function make(folder) {
  for (const [name, width, height] of [['12', 4000, 3000], ['24', 6000, 4000]]) {
    const source = photo(width, height)
    const write = (picture, file) => picture.toFile(path.join(folder, file))
    await write(source.clone().jpeg({ quality: 90 }), `${name}mp.jpg`)
    if (name === '24') {
      await write(source.clone().jpeg({ quality: 90, progressive: true }), '24mp-progressive.jpg')
      await write(source.clone().png({ compressionLevel: 6 }), '24mp.png')
      await write(source.clone().webp({ quality: 85 }), '24mp.webp')
    }
  }
}

const jpeg = (picture, size) => picture.resize({ width: size, height: size, fit: 'inside' }).jpeg({ quality: 80 }).toBuffer()

async function each(bytes, sizes) {
  const made = []
  for (const size of sizes) made.push(await jpeg(sharp(bytes), size))
  return made
}

// As well as it can be done by hand: the next from the pixels of the one before.
async function cascade(bytes, sizes) {
  const made = []
  let from = sharp(bytes)
  for (const size of sizes) {
    const { data, info } = await from.resize({ width: size, height: size, fit: 'inside' }).raw().toBuffer({ resolveWithObject: true })
    from = sharp(data, { raw: info })
    made.push(await from.clone().jpeg({ quality: 80 }).toBuffer())
  }
  return made
}

async function measure(way, file, repeats, folder, sizes) {
  const bytes = fs.readFileSync(file)
  let made = await way(bytes, sizes)
  const before = process.cpuUsage()
  for (let turn = 0; turn < repeats; turn++) made = await way(bytes, sizes)
  const { user, system } = process.cpuUsage(before)
  console.log((user + system) / 1000 / repeats)
  made.forEach((picture, index) => fs.writeFileSync(path.join(folder, `s${sizes[index]}.jpg`), picture))
}

const pixels = async picture => (await picture.removeAlpha().toColourspace('srgb').raw().toBuffer())

async function judge(file, size, pictures) {
  const best = sharp(file).resize({ width: size, height: size, fit: 'inside', fastShrinkOnLoad: false })
  const { data, info } = await best.removeAlpha().raw().toBuffer({ resolveWithObject: true })
  for (const picture of pictures) {
    const other = await pixels(sharp(picture))
    let squares = 0
    for (let at = 0; at < data.length; at++) squares += (data[at] - other[at]) ** 2
    console.log((10 * Math.log10(255 ** 2 / (squares / data.length))).toFixed(2), ssim(data, other, info).toFixed(4))
  }
}

// Of the brightness, over windows of 8 by 8.
function ssim(a, b, { width, height }) {
  const luma = (from, at) => 0.299 * from[at] + 0.587 * from[at + 1] + 0.114 * from[at + 2]
  let sum = 0, windows = 0
  for (let top = 0; top + 8 <= height; top += 4) {
    for (let left = 0; left + 8 <= width; left += 4) {
      let x = 0, y = 0, xx = 0, yy = 0, xy = 0
      for (let row = 0; row < 8; row++) {
        for (let column = 0; column < 8; column++) {
          const at = ((top + row) * width + left + column) * 3
          const p = luma(a, at), q = luma(b, at)
          x += p; y += q; xx += p * p; yy += q * q; xy += p * q
        }
      }
      const mx = x / 64, my = y / 64, vx = xx / 64 - mx * mx, vy = yy / 64 - my * my, c = xy / 64 - mx * my
      sum += (2 * mx * my + 6.5025) * (2 * c + 58.5225) / ((mx * mx + my * my + 6.5025) * (vx + vy + 58.5225))
      windows++
    }
  }
  return sum / windows
}

const [command, ...rest] = process.argv.slice(2)
if (command === 'make') await make(rest[0])
else if (command === 'judge') await judge(rest[0], Number(rest[1]), rest.slice(2))
else await measure({ each, cascade }[command], rest[0], Number(rest[1]), rest[2], rest.slice(3).map(Number))
