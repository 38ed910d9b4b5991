// The right map, turned and shifted so that some images lie where the left map has them.

const EDGE = 32767; // of the square that maps fill, in both directions
const FEWEST = 3; // images that settle how a map is turned

/** The mean place of some images on a map. */
function centre(map, images) {
  const sum = [0, 0];
  for (const i of images) { sum[0] += map[2 * i]; sum[1] += map[2 * i + 1]; }
  return sum.map((value) => value / images.length);
}

/** Orthogonal Procrustes in two dimensions, in closed form: the rotation or reflection, and the shift, that
 *  bring `images` of one map nearest to their places on another, by least squares. No change of scale:
 *  a class that is more compact on one of the maps must stay so. */
function procrustes(from, to, images) {
  const [p, q] = [centre(from, images), centre(to, images)];
  let [xx, xy, yx, yy] = [0, 0, 0, 0]; // sums of products, from times to
  for (const i of images) {
    const [a, b, c, d] = [from[2 * i] - p[0], from[2 * i + 1] - p[1], to[2 * i] - q[0], to[2 * i + 1] - q[1]];
    xx += a * c; xy += a * d; yx += b * c; yy += b * d;
  }
  const flip = Math.hypot(xx - yy, xy + yx) > Math.hypot(xx + yy, xy - yx) ? -1 : 1;
  const angle = Math.atan2(xy - flip * yx, xx + flip * yy);
  const [cos, sin] = [Math.cos(angle), Math.sin(angle)];
  return ([x, y]) => {
    const [a, b] = [x - p[0], flip * (y - p[1])];
    return [cos * a - sin * b + q[0], sin * a + cos * b + q[1]];
  };
}

/** Both maps with `images` upon each other, made smaller alike where the right one would leave the square. */
function upon(left, right, images) {
  const placed = images.filter((i) => left[2 * i] > MISSING && right[2 * i] > MISSING);
  if (placed.length < FEWEST) return { left, right };
  const move = procrustes(right, left, placed);
  const moved = Float32Array.from(right);
  let extent = EDGE;
  for (let i = 0; i < moved.length; i += 2) {
    if (right[i] <= MISSING) continue;
    [moved[i], moved[i + 1]] = move([right[i], right[i + 1]]);
    extent = Math.max(extent, Math.abs(moved[i]), Math.abs(moved[i + 1]));
  }
  const fit = (map, kept) => Float32Array.from(map, (v, i) => (kept[i - (i % 2)] <= MISSING ? MISSING : (v * EDGE) / extent));
  return { left: fit(left, left), right: fit(moved, right) };
}
