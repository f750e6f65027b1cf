/* Runs the functions of a plan for WebGPU (NAME.gpu.json) on the weights of the same model's weight file: one sentence
 * at a time, one submission for each step. What is computed is all in the plan; the search is the caller's.
 *
 *     const gpu = await Gpu.open(plan, weights);   // null: there is no adapter
 *     gpu.encode(tokens, allowed);                 // Int32Array of source tokens; of target tokens, or null: all
 *     const { ids, scores } = await gpu.step([start], 0);
 */

const SLOT = 256; // bytes between the numbers of a uniform buffer

/* A launch size: a number, the name of a variable, or [operation, a, b]. */
const OPERATIONS = {
  "+": (a, b) => a + b,
  "*": (a, b) => a * b,
  "/": (a, b) => Math.floor(a / b),
  "%": (a, b) => a % b,
  "<<": (a, b) => a << b,
  ">>": (a, b) => a >> b,
};
const value = (size, variables) =>
  typeof size === "number" ? size
    : typeof size === "string" ? variables[size]
      : OPERATIONS[size[0]](value(size[1], variables), value(size[2], variables));

export class Gpu {
  /* A device with the plan's kernels compiled and its weights (bytes of a weight file's first section) in its memory.
   * Throws where the device cannot do what the plan asks for. */
  static async open(plan, weights, adapter = null) {
    adapter ??= await globalThis.navigator?.gpu?.requestAdapter();
    if (!adapter) return null;
    const gpu = new Gpu(plan, adapter);
    try {
      await gpu.prepare(adapter, weights);
    } catch (error) {
      gpu.close();
      throw error;
    }
    return gpu;
  }

  constructor(plan, adapter) {
    this.plan = plan;
    this.name = [adapter.info?.vendor, adapter.info?.architecture].filter(Boolean).join(" ") || "unknown";
    this.functions = {};
    this.variables = {};
    this.lost = null; // why the device is gone
  }

  async prepare(adapter, weights) {
    const largest = Math.max(...this.plan.functions.flatMap((f) => [f.arena, ...f.buffers.map((b) => b.bytes)]));
    const requiredLimits = {};
    for (const limit of ["maxBufferSize", "maxStorageBufferBindingSize"]) {
      if (adapter.limits[limit] < largest) throw new Error(`a buffer of ${largest} bytes is more than ${limit}`);
      requiredLimits[limit] = Math.min(adapter.limits[limit], Math.max(largest, 1 << 27));
    }
    this.device = await adapter.requestDevice({ requiredLimits });
    this.device.lost.then((info) => { this.lost = info.message || info.reason; });
    this.device.onuncapturederror = (event) => { this.lost ??= event.error.message; };
    this.device.pushErrorScope("out-of-memory");
    this.device.pushErrorScope("validation");
    this.makeUniforms();
    this.makeBuffers(weights);
    await this.makePipelines();
    for (const f of this.plan.functions) this.functions[f.name] = this.makeCalls(f);
    for (let scope = 0; scope < 2; scope++) {
      const error = await this.device.popErrorScope();
      if (error) throw new Error(error.message);
    }
  }

  /* Infinity, which every kernel is given, and behind it the variables. */
  makeUniforms() {
    const names = new Set(this.plan.functions.flatMap((f) => f.calls.flatMap((c) => c.arguments))
      .filter(([kind]) => kind === "name").map(([, name]) => name));
    this.slots = Object.fromEntries([...names].sort().map((name, i) => [name, (i + 1) * SLOT]));
    const usage = GPUBufferUsage.UNIFORM | GPUBufferUsage.COPY_DST;
    this.uniforms = this.device.createBuffer({ size: (names.size + 1) * SLOT, usage });
    this.device.queue.writeBuffer(this.uniforms, 0, new Float32Array([Infinity]));
  }

  /* One buffer for each weight and for what is kept or given, by name, and one arena for all functions. */
  makeBuffers(weights) {
    const usage = GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_DST | GPUBufferUsage.COPY_SRC;
    const sizes = {};
    for (const { name, role, bytes } of this.plan.functions.flatMap((f) => f.buffers)) {
      if (role !== "arena") sizes[name] = Math.max(sizes[name] ?? 0, bytes);
    }
    this.buffers = {};
    for (const [name, size] of Object.entries(sizes)) this.buffers[name] = this.device.createBuffer({ size, usage });
    const written = new Set();
    for (const { name, role, bytes, offset } of this.plan.functions.flatMap((f) => f.buffers)) {
      if (role !== "weight" || written.has(name)) continue;
      written.add(name);
      this.device.queue.writeBuffer(this.buffers[name], 0, weights, offset, bytes);
    }
    const size = Math.max(...this.plan.functions.map((f) => f.arena));
    this.arena = this.device.createBuffer({ size, usage });
    const read = Math.max(...this.plan.functions.map((f) => outputs(f).reduce((sum, b) => sum + b.bytes, 0)));
    this.staging = this.device.createBuffer({ size: read, usage: GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST });
    this.bias = new Float32Array(sizes.bias / 4);
    this.own = new Float32Array(weights.slice(this.plan.bias, this.plan.bias + sizes.bias).buffer)
      .map((b) => Math.max(b, this.plan.forbidden));
  }

  async makePipelines() {
    const kinds = {};
    for (const c of this.plan.functions.flatMap((f) => f.calls)) {
      kinds[c.kernel] ??= c.arguments.map(([kind]) => (kind === "name" ? "uniform" : "storage"));
    }
    const layouts = {};
    this.pipelines = {};
    await Promise.all(Object.entries(this.plan.sources).map(async ([kernel, code]) => {
      const layout = layouts[kinds[kernel]] ??= this.device.createBindGroupLayout({
        entries: ["uniform", ...kinds[kernel]].map((type, binding) => (
          { binding, visibility: GPUShaderStage.COMPUTE, buffer: { type } })),
      });
      this.pipelines[kernel] = await this.device.createComputePipelineAsync({
        layout: this.device.createPipelineLayout({ bindGroupLayouts: [layout] }),
        compute: { module: this.device.createShaderModule({ code }), entryPoint: "KERNEL" },
      });
    }));
  }

  /* A function's calls with what each is bound to, which never changes. */
  makeCalls(f) {
    const place = ([kind, what]) => {
      if (kind === "name") return { buffer: this.uniforms, offset: this.slots[what], size: 4 };
      const { name, role, offset, bytes } = f.buffers[what];
      return role === "arena" ? { buffer: this.arena, offset, size: bytes }
        : { buffer: this.buffers[name], offset: 0, size: bytes };
    };
    return f.calls.map((call) => {
      const pipeline = this.pipelines[call.kernel];
      const resources = [{ buffer: this.uniforms, offset: 0, size: 4 }, ...call.arguments.map(place)];
      const entries = resources.map((resource, binding) => ({ binding, resource }));
      const group = this.device.createBindGroup({ layout: pipeline.getBindGroupLayout(0), entries });
      return { pipeline, group, groups: call.groups };
    });
  }

  set(variable, number) {
    if (this.variables[variable] === number) return;
    this.variables[variable] = number;
    this.device.queue.writeBuffer(this.uniforms, this.slots[variable], new Int32Array([number]));
  }

  run(commands, name) {
    const pass = commands.beginComputePass();
    for (const { pipeline, group, groups } of this.functions[name]) {
      pass.setPipeline(pipeline);
      pass.setBindGroup(0, group);
      pass.dispatchWorkgroups(...groups.map((size) => value(size, this.variables)));
    }
    pass.end();
  }

  /* Begins a sentence. */
  encode(tokens, allowed) {
    const { queue } = this.device;
    if (allowed) {
      this.bias.fill(this.plan.forbidden);
      for (const id of allowed) this.bias[id] = this.own[id];
    }
    queue.writeBuffer(this.buffers.bias, 0, allowed ? this.bias : this.own);
    queue.writeBuffer(this.buffers.tokens, 0, tokens);
    this.set("source", tokens.length);
    const commands = this.device.createCommandEncoder();
    const cells = this.plan.functions.flatMap((f) => f.buffers).filter((b) => b.role === "state" && b.extent === "rows");
    for (const name of new Set(cells.map((b) => b.name))) commands.clearBuffer(this.buffers[name]);
    this.run(commands, "encode");
    queue.submit([commands.finish()]);
  }

  /* Feeds a token to each hypothesis, of which row i was row rows[i] before (null: all stay): `ids` and `scores` of the
   * likeliest next ones, best first, as many a row as the function gives. */
  async step(tokens, position, rows = null) {
    const { queue } = this.device;
    const f = this.plan.functions.find((f) => f.name === (tokens.length === 1 ? "step" : "beams"));
    queue.writeBuffer(this.buffers.tokens, 0, Int32Array.from(tokens));
    this.set("position", position);
    const commands = this.device.createCommandEncoder();
    if (rows && rows.some((row, i) => row !== i)) {
      queue.writeBuffer(this.buffers.rows, 0, Int32Array.from(rows));
      this.run(commands, "reorder");
    }
    this.run(commands, f.name);
    let offset = 0;
    for (const { name, bytes } of outputs(f)) {
      commands.copyBufferToBuffer(this.buffers[name], 0, this.staging, offset, bytes);
      offset += bytes;
    }
    queue.submit([commands.finish()]);
    await this.staging.mapAsync(GPUMapMode.READ, 0, offset);
    const [ids, scores] = outputs(f);
    const data = this.staging.getMappedRange(0, offset).slice(0);
    this.staging.unmap();
    if (this.lost) throw new Error(this.lost);
    return { ids: new Int32Array(data, 0, ids.bytes / 4), scores: new Float32Array(data, ids.bytes, scores.bytes / 4) };
  }

  close() {
    this.device?.destroy();
  }
}

/* The buffers of a function that its caller reads: ids, then scores. */
function outputs(f) {
  const named = (name) => f.buffers.filter((b) => b.role === "output" && b.name === name);
  return [...named("ids"), ...named("scores")];
}
