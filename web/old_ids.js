// Graphs saved with the ids that the nodes had in earlier releases get today's as they are opened. Two of the old ids
// are also another pack's: a node is ours if it has the outputs of ours.
import { app } from "../../scripts/app.js";

const CHANGED = [
  "LoadT5", "LoadDiT", "LoadVAE", "LoadLoRA", "TeaCache", "TextEncode", "Sigmas", "Sampler", "Extend", "NoiseMask",
  "Invert", "Resample", "VAEDecode", "VAEEncode", "SaveVideo", "GroupStatus",
];
const NOW = new Map(CHANGED.map((name) => [`Mochi${name}`, `MochiParallel${name}`]));

function rename(node) {
  const now = NOW.get(node?.type);
  const outputs = globalThis.LiteGraph.registered_node_types[now]?.nodeData?.output_name;
  const saved = (node?.outputs ?? []).map((output) => output.name);
  if (outputs && saved.join() === outputs.join()) node.type = now;
}

app.registerExtension({
  name: "MochiParallel.OldIds",
  beforeConfigureGraph(graph) {
    const inner = [...(graph.definitions?.subgraphs ?? []), ...Object.values(graph.extra?.groupNodes ?? {})];
    for (const { nodes } of [graph, ...inner]) {
      if (Array.isArray(nodes)) nodes.forEach(rename);
    }
  },
});
