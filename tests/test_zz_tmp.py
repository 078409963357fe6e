import gc, types
def name(o):
    if isinstance(o,dict): return "dict "+str(list(map(str,o))[:8])
    if type(o).__name__=="cell": return "cell"
    if isinstance(o,(list,tuple)): return type(o).__name__+str([type(x).__name__ for x in o][:8])
    if isinstance(o, types.FrameType): return "frame "+o.f_code.co_name
    if hasattr(o,"__qualname__"): return type(o).__name__+" "+str(o.__qualname__)
    return type(o).__name__
def test_zz():
    gc.collect()
    ms=[o for o in gc.get_objects() if type(o).__name__=="Backbone"]
    print("MODELS",len(ms))
    seen={id(ms)}
    def show(o,depth):
        if depth==7: return
        rs=gc.get_referrers(o); seen.add(id(rs))
        for r in rs:
            if id(r) in seen or (isinstance(r,types.FrameType) and r.f_code.co_name in("show","test_zz")): continue
            seen.add(id(r))
            print("  "*depth, name(r)[:150])
            show(r,depth+1)
    for m in ms: seen.add(id(m)); show(m,0)
