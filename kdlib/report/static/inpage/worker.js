// The worker: trains when the page asks for an update, so a slow page slows the training and nothing piles up.

let [data, run, maps] = [null, null, null];

/** Tell the page where both students stand. */
function report(id, losses) {
  const students = run.nets.map((net, k) => {
    const { hidden, probabilities, accuracy, loss } = evaluate(net, data);
    return { points: maps[k](hidden), probabilities, accuracy, loss };
  });
  const buffers = students.flatMap(({ points, probabilities }) => [points.buffer, probabilities.buffer]);
  postMessage({ id, steps: run.steps, losses, students }, buffers);
}

onmessage = ({ data: message }) => {
  if (message.data) data = message.data;
  if (message.settings) {
    run = pair(data, message.settings);
    maps = run.nets.map((net) => projector(net.width));
  }
  const sums = [0, 0];
  for (let i = 0; i < message.steps; i++) {
    run.step();
    run.losses.forEach((loss, k) => { sums[k] += loss / message.steps; });
  }
  report(message.id, sums);
};
